//! What was wrong with the input, and what was done about it.
//!
//! Every stage that reads what people wrote reports [`Diagnostic`]s beside its result instead of failing. [`render`] prints them with the line
//! they are about.

mod render;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;

pub use self::render::render;

/// One thing the administrator should know about a line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Diagnostic {
    /// Path of the file as given to the parser.
    pub file: Arc<str>,
    /// Line, from 1; 0 if the whole file is meant.
    pub line: u32,
    /// Column of the first character meant, from 1 (in characters); 0 if the whole line is meant.
    pub column: u32,
    /// Number of characters meant; 0 as for `column`.
    pub length: u32,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, one sentence without a full stop.
    pub message: String,
    /// What was done about it, one sentence without a full stop ("the rule is not enforced").
    pub effect: String,
    /// What to write instead, if that is known.
    pub hint: Option<String>,
}

/// How bad a [`Diagnostic`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something written is not enforced.
    Error,
    /// Everything is enforced, but it may not be what was meant.
    Warning,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
            if self.column > 0 {
                write!(f, ":{}", self.column)?;
            }
        }
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, ": {severity}: {}; {}", self.message, self.effect)
    }
}
