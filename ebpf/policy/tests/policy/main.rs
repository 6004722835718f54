//! Policies from the outside: real `ssh-keygen`, real files, and those who would cheat.

mod attacks;
mod example;
mod side_by_side;
mod support;
