//! Many entries of a map with one system call: bpf(2)'s batch commands, which aya does not have.
//!
//! In: a map as aya opened it. Out: entries read, taken, written or removed in chunks. An entry costs a fifth to a tenth of what it costs
//! alone, and a chunk holds the kernel's locks no longer than its own call.
//!
//! 1. [`Batch::of`] asks the kernel for the map's kind and sizes, so that no buffer is ever smaller than what the kernel fills. 2. Each chunk is
//!    one call. 3. The kernel says how far it came.
//!
//! What a walk sees of a map that others change meanwhile: hash maps (also LRU) are walked bucket by bucket, each entry that is there all the time
//! exactly once; tries and arrays key by key, and a trie whose cursor is removed meanwhile is walked from its start again. Per-CPU maps are refused:
//! their values have another size in memory. A change that stops half-way has changed a prefix of what was asked for.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::Pod;
use aya::maps::{IterableMap, MapType};

use super::Error;

/// Entries of one system call.
pub const CHUNK: usize = 4096;

/// Chunks in a row that may come back empty because entries vanish under the walk.
const PATIENCE: usize = 64;

/// A map whose entries are handled in chunks.
#[derive(Debug)]
pub struct Batch<'m, K, V> {
    fd: BorrowedFd<'m>,
    name: &'static str,
    entries: PhantomData<(K, V)>,
}

/// The part of the kernel's `union bpf_attr` that batch commands use (`include/uapi/linux/bpf.h`).
#[repr(C)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The part of the same union that commands on one entry use.
#[repr(C)]
struct EntryAttributes {
    map_fd: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `enum bpf_cmd` of the same header.
#[derive(Clone, Copy)]
#[repr(i32)]
enum Command {
    LookupElement = 1,
    UpdateElement = 2,
    LookupAndDeleteElement = 21,
    Lookup = 24,
    LookupAndDelete = 25,
    Update = 26,
    Delete = 27,
}

/// Where the next chunk begins: for hash maps a number, for others a key. Aligned for both.
type Cursor<K> = (u64, MaybeUninit<K>);

impl<'m, K: Pod, V: Pod> Batch<'m, K, V> {
    /// A map by what it is opened as; `name` is for errors.
    ///
    /// # Errors
    /// The map is of a kind that has no batches, or its keys or values are not of these types' sizes.
    pub fn of(map: &'m impl IterableMap<K, V>, name: &'static str) -> Result<Self, Error> {
        let map = map.map();
        let failed = |source| Error::Map {
            verb: "read the layout of",
            map: name,
            source,
        };
        let info = map.info().map_err(failed)?;
        let kind = info.map_type().map_err(failed)?;
        let known = [
            MapType::Hash,
            MapType::LruHash,
            MapType::LpmTrie,
            MapType::Array,
        ];
        let sizes = (info.key_size() as usize, info.value_size() as usize);
        if !known.contains(&kind) || sizes != (size_of::<K>(), size_of::<V>()) {
            return Err(Error::Batch {
                verb: "handle by batches the",
                map: name,
                source: io::ErrorKind::InvalidInput.into(),
            });
        }
        Ok(Self {
            fd: map.fd().as_fd(),
            name,
            entries: PhantomData,
        })
    }

    /// Shows `visit` the entries of the map, a chunk at a time, until it breaks.
    ///
    /// # Errors
    /// The kernel does not tell them.
    pub fn visit(&self, visit: impl FnMut(&[K], &[V]) -> ControlFlow<()>) -> Result<(), Error> {
        self.walk(Command::Lookup, visit)
    }

    /// All keys for which `wanted` says so.
    ///
    /// # Errors
    /// As [`Batch::visit`].
    pub fn keys(&self, mut wanted: impl FnMut(&K, &V) -> bool) -> Result<Vec<K>, Error> {
        let mut found = Vec::new();
        self.visit(|keys, values| {
            let entries = keys.iter().zip(values);
            let entries = entries.filter(|(key, value)| wanted(key, value));
            found.extend(entries.map(|(key, _)| *key));
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Shows `visit` the entries and removes them (hash maps only).
    ///
    /// # Errors
    /// As [`Batch::visit`]; entries that were shown are removed.
    pub fn drain(&self, mut visit: impl FnMut(&[K], &[V])) -> Result<(), Error> {
        self.walk(Command::LookupAndDelete, |keys, values| {
            visit(keys, values);
            ControlFlow::Continue(())
        })
    }

    /// Writes entries, over those that are there under the same keys.
    ///
    /// # Errors
    /// The kernel refuses one; those before it are written.
    pub fn write(&self, entries: impl IntoIterator<Item = (K, V)>) -> Result<(), Error> {
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut entries = entries.into_iter();
        loop {
            keys.clear();
            values.clear();
            for (key, value) in entries.by_ref().take(CHUNK) {
                keys.push(key);
                values.push(value);
            }
            if keys.is_empty() {
                return Ok(());
            }
            let mut attributes = self.attributes(keys.len());
            attributes.keys = keys.as_ptr() as u64;
            attributes.values = values.as_ptr() as u64;
            // SAFETY: the kernel reads `count` keys and values, which both vectors have, in the map's sizes (see `of`).
            unsafe { call(Command::Update, &mut attributes) }.map_err(self.failed("write"))?;
        }
    }

    /// Removes entries and says how many there were; one that is not there is no error.
    ///
    /// # Errors
    /// The kernel refuses one; those before it are removed.
    pub fn remove(&self, mut keys: &[K]) -> Result<usize, Error> {
        let mut removed = 0;
        while !keys.is_empty() {
            let chunk = &keys[..keys.len().min(CHUNK)];
            let mut attributes = self.attributes(chunk.len());
            attributes.keys = chunk.as_ptr() as u64;
            // SAFETY: the kernel reads `count` keys, which the chunk has, in the map's size (see `of`).
            match unsafe { call(Command::Delete, &mut attributes) } {
                Ok(()) => {
                    removed += chunk.len();
                    keys = &keys[chunk.len()..];
                }
                // The kernel stops at a key that is not there; `count` are removed before it.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
                    let before = (attributes.count as usize).min(chunk.len() - 1);
                    removed += before;
                    keys = &keys[before + 1..];
                }
                Err(error) => return Err(self.failed("remove entries of")(error)),
            }
        }
        Ok(removed)
    }

    /// Removes one entry and answers what it held at that moment; none if it is not there (hash maps only).
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn take(&self, key: &K) -> Result<Option<V>, Error> {
        self.lookup(Command::LookupAndDeleteElement, "take from", key)
    }

    /// The value under a key; none if it is not there.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn get(&self, key: &K) -> Result<Option<V>, Error> {
        self.lookup(Command::LookupElement, "read", key)
    }

    fn lookup(&self, command: Command, verb: &'static str, key: &K) -> Result<Option<V>, Error> {
        let mut value = MaybeUninit::<V>::uninit();
        let mut attributes = EntryAttributes {
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            zero: 0,
            key: std::ptr::from_ref(key) as u64,
            value: value.as_mut_ptr() as u64,
            flags: 0,
        };
        // SAFETY: the kernel reads a key and fills a value of the map's sizes (see `of`).
        match unsafe { call(command, &mut attributes) } {
            // SAFETY: the kernel filled it, and any bytes make a `Pod`.
            Ok(()) => Ok(Some(unsafe { value.assume_init() })),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(self.failed(verb)(error)),
        }
    }

    /// Writes one entry if there is none under its key; says whether it did.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn insert_new(&self, key: &K, value: &V) -> Result<bool, Error> {
        /// `BPF_NOEXIST`.
        const ONLY_NEW: u64 = 1;
        let mut attributes = EntryAttributes {
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            zero: 0,
            key: std::ptr::from_ref(key) as u64,
            value: std::ptr::from_ref(value) as u64,
            flags: ONLY_NEW,
        };
        // SAFETY: the kernel reads a key and a value of the map's sizes (see `of`).
        match unsafe { call(Command::UpdateElement, &mut attributes) } {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(self.failed("write")(error)),
        }
    }

    fn walk(
        &self,
        command: Command,
        mut visit: impl FnMut(&[K], &[V]) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut room = CHUNK;
        let mut keys: Vec<K> = Vec::with_capacity(room);
        let mut values: Vec<V> = Vec::with_capacity(room);
        let mut cursors: [Cursor<K>; 2] = [(0, MaybeUninit::zeroed()); 2];
        let mut begun = false;
        let mut empty = 0;
        loop {
            let [from, to] = &mut cursors;
            let mut attributes = self.attributes(room);
            attributes.in_batch = match begun {
                true => (&raw const *from) as u64,
                false => 0,
            };
            attributes.out_batch = (&raw mut *to) as u64;
            attributes.keys = keys.as_mut_ptr() as u64;
            attributes.values = values.as_mut_ptr() as u64;
            // SAFETY: the kernel fills at most `room` keys and values, for which the vectors have room, in the map's sizes (see `of`), and
            // a cursor, which is a key or 4 bytes.
            let result = unsafe { call(command, &mut attributes) };
            let (count, more) = match result {
                Ok(()) => (attributes.count as usize, true),
                Err(error) => match error.raw_os_error() {
                    // The end.
                    Some(libc::ENOENT) => (attributes.count as usize, false),
                    // Entries vanish faster than they are read.
                    Some(libc::EINTR) => (attributes.count as usize, true),
                    // A bucket of a hash map has more entries than there was room for.
                    Some(libc::ENOSPC) => {
                        room *= 2;
                        keys.reserve(room);
                        values.reserve(room);
                        (0, true)
                    }
                    _ => return Err(self.failed("read")(error)),
                },
            };
            let count = count.min(room);
            // SAFETY: the kernel filled `count` keys and values, and any bytes make a `Pod`.
            unsafe {
                keys.set_len(count);
                values.set_len(count);
            }
            if count > 0 && visit(&keys, &values).is_break() {
                return Ok(());
            }
            if !more {
                return Ok(());
            }
            if count > 0 {
                cursors.swap(0, 1);
                begun = true;
                empty = 0;
            } else {
                empty += 1;
                if empty > PATIENCE {
                    return Err(self.failed("read")(io::ErrorKind::Interrupted.into()));
                }
            }
            keys.clear();
            values.clear();
        }
    }

    fn attributes(&self, count: usize) -> Attributes {
        Attributes {
            in_batch: 0,
            out_batch: 0,
            keys: 0,
            values: 0,
            count: count as u32,
            map_fd: self.fd.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        }
    }

    fn failed(&self, verb: &'static str) -> impl Fn(io::Error) -> Error {
        let map = self.name;
        move |source| Error::Batch { verb, map, source }
    }
}

/// # Safety
/// The addresses in `attributes` are those of memory that the command may read or fill, `count` entries of the map's sizes.
unsafe fn call<A>(command: Command, attributes: &mut A) -> io::Result<()> {
    // SAFETY: bpf(2) reads and writes the attributes, whose size is told, and what the caller vouches for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command as libc::c_long,
            std::ptr::from_mut(attributes),
            size_of::<A>(),
        )
    };
    match result {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
