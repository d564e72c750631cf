//! The `walcast` binary: everything is in the library.

fn main() -> std::process::ExitCode {
    walcast::app::cli::main()
}
