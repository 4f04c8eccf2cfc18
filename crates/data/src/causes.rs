//! An error's message with its causes, in one line.

use std::error::Error;

/// `error: cause: its cause`; a cause that the text so far already holds is left out.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let message = cause.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Chain(&'static str, Option<Box<Chain>>);

    impl std::fmt::Display for Chain {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl Error for Chain {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.1.as_deref().map(|cause| cause as &dyn Error)
        }
    }

    #[test]
    fn each_cause_once() {
        let denied = || Some(Box::new(Chain("denied", None)));
        let error = Chain(
            "stage failed",
            Some(Box::new(Chain("cannot read a.jpg", denied()))),
        );
        assert_eq!(with_causes(&error), "stage failed: cannot read a.jpg: denied");
        assert_eq!(with_causes(&Chain("read: denied", denied())), "read: denied");
    }
}
