//! Where the password comes from: a file, the environment, or the person. Never the command line,
//! where every process of the machine could read it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::failure::Failure;

const VARIABLE: &str = "TT_PASSWORD";

/// The password of `user`.
pub(crate) fn find(user: &str, file: Option<&Path>) -> Result<String, Failure> {
    if let Some(file) = file {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::usage(format!("cannot read the password file {}: {error}", file.display())))?;
        if others_may_read(file) {
            eprintln!("tt: others can read the password file; try: chmod 600 {}", file.display());
        }
        return first_line(&text)
            .ok_or_else(|| Failure::usage(format!("the password file {} is empty", file.display())));
    }
    match std::env::var(VARIABLE) {
        Ok(password) => Ok(password),
        Err(std::env::VarError::NotUnicode(_)) => Err(Failure::usage(format!("{VARIABLE} is not UTF-8"))),
        Err(std::env::VarError::NotPresent) => {
            rpassword::prompt_password(format!("Password of {user}: ")).map_err(|error| {
                Failure::usage(format!("no password: give --password-file or {VARIABLE} (cannot ask for it: {error})"))
            })
        }
    }
}

/// Whether it is a file (a pipe is nobody else's) that more people than its owner can read.
fn others_may_read(file: &Path) -> bool {
    std::fs::metadata(file).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o077 != 0)
}

/// The line without its end, whichever system wrote it.
fn first_line(text: &str) -> Option<String> {
    text.lines().next().filter(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_taken_without_its_end() {
        for text in ["secret", "secret\n", "secret\r\n", "secret\nrest"] {
            assert_eq!(first_line(text).as_deref(), Some("secret"));
        }
        assert_eq!(first_line(" with blanks \n").as_deref(), Some(" with blanks "));
        assert_eq!(first_line("\n"), None);
    }
}
