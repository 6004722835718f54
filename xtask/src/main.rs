//! `cargo xtask …`; the library says what it does.

fn main() -> std::process::ExitCode {
    xtask::main()
}
