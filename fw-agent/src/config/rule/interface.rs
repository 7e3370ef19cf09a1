//! `-i`: the interface that a line is for.
//!
//! What may be named depends on the list: a guest names its own NICs, the host an interface of the node, a security group and a VNet none.

use std::sync::Arc;

use super::List;
use crate::config::line::{Fault, Line, Note, Span, quote};

/// An interface that a line names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// A guest's `netN`.
    Net(u16, Span),
    /// An interface of the host.
    Host(Arc<str>, Span),
}

/// Reads the value of `-i`.
pub(super) fn parse(
    line: &Line<'_>,
    text: &str,
    list: List,
    notes: &mut Vec<Note>,
) -> Result<Interface, Fault> {
    match list {
        List::Vnet => Err(Fault::new(
            line,
            text,
            "a rule of a VNet cannot name an interface",
        )),
        List::Group => Err(Fault::new(
            line,
            text,
            "a rule of a security group cannot name an interface",
        )
        .hint("name it where the group is used".to_owned())),
        List::Guest => {
            let number = text
                .strip_prefix("net")
                .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
            let number = number.and_then(|digits| digits.parse().ok());
            let number = number.ok_or_else(|| {
                Fault::new(
                    line,
                    text,
                    format!("{} is not an interface of a guest", quote(text)),
                )
                .hint("use net0, net1, …".to_owned())
            })?;
            Ok(Interface::Net(number, line.span(text)))
        }
        List::Host if is_host_interface(text) => {
            if text.contains('-') {
                let message = "the name of the interface has a `-`";
                notes.push(Fault::new(line, text, message).superset());
            }
            Ok(Interface::Host(text.into(), line.span(text)))
        }
        List::Host => Err(Fault::new(
            line,
            text,
            format!("{} is not a name of an interface", quote(text)),
        )),
    }
}

/// A letter, then up to 20 letters, digits, `_` or `-`, then perhaps `:N` or `.N`.
pub(crate) fn is_host_interface(text: &str) -> bool {
    let (name, suffix) = match text.split_once([':', '.']) {
        Some((name, suffix)) => (name, Some(suffix)),
        None => (text, None),
    };
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && (2..=20).contains(&text.len())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
        && suffix.is_none_or(|suffix| {
            !suffix.is_empty() && suffix.bytes().all(|byte| byte.is_ascii_digit())
        })
}
