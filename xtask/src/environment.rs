//! The environment that `cargo run` leaves to this program, put back to what the user's shell had: the cargo
//! commands started from here would otherwise take this package's variables for their own and rebuild.

use std::env;
use std::ffi::OsString;
use std::path::Path;

/// Removes what `cargo run` has added for xtask.
pub fn forget_cargo_run() {
    let added: Vec<OsString> =
        env::vars_os().map(|(name, _)| name).filter(|name| is_added(&name.to_string_lossy())).collect();
    let libraries = env::var_os("LD_LIBRARY_PATH").map(|paths| without_build_directories(&paths));
    // SAFETY: called first thing in `main`, while this process has one thread.
    unsafe {
        for name in added {
            env::remove_var(name);
        }
        match libraries {
            Some(kept) if !kept.is_empty() => env::set_var("LD_LIBRARY_PATH", kept),
            _ => env::remove_var("LD_LIBRARY_PATH"),
        }
    }
}

/// Whether `cargo run` sets this variable for the program it starts.
fn is_added(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_CRATE_NAME"
}

/// The directories that the user had in a library path: not cargo's output, not a toolchain's.
fn without_build_directories(paths: &OsString) -> OsString {
    let kept = env::split_paths(paths).filter(|path| !is_build_directory(path));
    env::join_paths(kept).unwrap_or_default()
}

fn is_build_directory(path: &Path) -> bool {
    let text = path.to_string_lossy();
    text.contains("/target/") || text.contains("/toolchains/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_own_library_directories_stay() {
        let paths = OsString::from("/a/target/debug/deps:/opt/lib:/home/u/.rustup/toolchains/x/lib");
        assert_eq!(without_build_directories(&paths), OsString::from("/opt/lib"));
    }

    #[test]
    fn only_this_packages_variables_go() {
        assert!(is_added("CARGO_PKG_NAME"));
        assert!(!is_added("CARGO_HOME"));
        assert!(!is_added("CARGO_TARGET_DIR"));
    }
}
