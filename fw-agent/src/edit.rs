//! Changes to firewall files by a program, as careful as an editor: `fwctl rule` and `fwctl save`.
//!
//! ```text
//! file ─read under lock→ bytes ─Text::parse→ lines ─add insert remove replace→ bytes ─check→ diagnostics before and after ─replace→ file
//! ```
//!
//! 1. [`lock`] keeps other editors out. 2. [`text`] changes one line and leaves every other byte alone: comments, order, line endings.
//! 3. [`check`] parses, resolves and lints the node's whole configuration with and without the change. 4. [`write`] puts the new file in
//! the old one's place by a rename, with its mode and owner. [`saved`] is the other direction: the configuration in force as text.
//!
//! Invariant: a reader of the file sees the old text or the new, never a part.

pub mod check;
pub mod lock;
pub mod same;
pub mod saved;
pub mod text;
pub mod write;
