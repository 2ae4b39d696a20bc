//! The `groundlink` binary: hands its arguments to [`groundlink::cli`].

fn main() -> std::process::ExitCode {
    groundlink::cli::main()
}
