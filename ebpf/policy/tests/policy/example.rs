//! The example under deploy/.
