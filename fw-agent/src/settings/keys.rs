//! The keys of the settings' file: what each is called, and how its value gets into [`Settings`].
//!
//! A table instead of one derived structure, so that a bad value costs its own key only and unknown keys are known by their place.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::de::Error as _;
use toml::Spanned;
use toml::de::{DeValue, Error, ValueDeserializer};

use super::Settings;

/// A value with its place in the file.
type Value<'a> = Spanned<DeValue<'a>>;

/// One key.
pub(super) struct Key {
    /// Its section, a full stop, its name.
    pub(super) path: &'static str,
    /// Takes over its value.
    pub(super) set: for<'a> fn(&mut Settings, Value<'a>) -> Result<(), Error>,
}

/// Names of the sections.
pub(super) const SECTIONS: [&str; 4] = ["paths", "interfaces", "log", "metrics"];

/// Every key.
pub(super) const KEYS: &[Key] = &[
    Key {
        path: "node",
        set: |settings, value| {
            let node: String = read(value)?;
            let fits = !node.is_empty() && !node.contains('/') && node != "." && node != "..";
            if !fits {
                return Err(Error::custom("not the name of a node"));
            }
            settings.node = Some(node);
            Ok(())
        },
    },
    Key {
        path: "reevaluate",
        set: |settings, value| put(&mut settings.reevaluate, read(value)),
    },
    Key {
        path: "paths.root",
        set: |settings, value| put(&mut settings.root, path(value)),
    },
    Key {
        path: "paths.pins",
        set: |settings, value| put(&mut settings.pin_directory, path(value)),
    },
    Key {
        path: "paths.run",
        set: |settings, value| put(&mut settings.run_directory, path(value)),
    },
    Key {
        path: "paths.state",
        set: |settings, value| put(&mut settings.state_directory, path(value)),
    },
    Key {
        path: "interfaces.include",
        set: |settings, value| put(&mut settings.interfaces.include, read(value)),
    },
    Key {
        path: "interfaces.exclude",
        set: |settings, value| put(&mut settings.interfaces.exclude, read(value)),
    },
    Key {
        path: "log.file",
        set: |settings, value| put(&mut settings.log_file, path(value)),
    },
    Key {
        path: "log.json",
        set: |settings, value| put(&mut settings.log_json, path(value).map(Some)),
    },
    Key {
        path: "metrics.address",
        set: |settings, value| put(&mut settings.metrics_address, read(value).map(Some)),
    },
    Key {
        path: "metrics.rules",
        set: |settings, value| put(&mut settings.metrics_rules, read(value)),
    },
];

fn put<T>(place: &mut T, value: Result<T, Error>) -> Result<(), Error> {
    *place = value?;
    Ok(())
}

fn read<T: DeserializeOwned>(value: Value<'_>) -> Result<T, Error> {
    T::deserialize(ValueDeserializer::from(value))
}

/// A path from `/`: what it is relative to otherwise is nobody's guess.
fn path(value: Value<'_>) -> Result<PathBuf, Error> {
    let path: PathBuf = read(value)?;
    match path.is_absolute() {
        true => Ok(path),
        false => Err(Error::custom("not an absolute path")),
    }
}
