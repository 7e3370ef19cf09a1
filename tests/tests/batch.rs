//! Batch operations on maps of every kind that has them.
//!
//! Needs root.
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use aya::Pod;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, IterableMap, LpmTrie, Map, MapData, PerCpuHashMap};
use fw_agent::datapath::batch::{Batch, CHUNK};
use fw_agent::datapath::pins::Pins;
use fw_agent::datapath::{AttachMode, Error, Kernel};
use fw_common::limit::Bucket;
use fw_common::maps::{capacity, name};
use fw_common::wire::Address;
use tapwall_tests::kernel::PinDirectory;

/// More than one chunk, and no multiple of one.
const MANY: u32 = 2 * CHUNK as u32 + 77;

/// Every entry that a walk shows; none may come twice.
fn contents<K: Pod + Ord, V: Pod>(map: &impl IterableMap<K, V>) -> BTreeMap<K, V> {
    let mut found = BTreeMap::new();
    let batch = Batch::of(map, "TEST").unwrap();
    batch
        .visit(|keys, values| {
            assert!(!keys.is_empty() && keys.len() == values.len());
            for (key, value) in keys.iter().zip(values) {
                assert!(found.insert(*key, *value).is_none(), "an entry came twice");
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

/// Removes `keys` and one that is not there before, between and behind them; all others stay.
fn removes_what_is_there<K: Pod + Ord, V: Pod>(
    map: &impl IterableMap<K, V>,
    keys: &[K],
    absent: K,
) {
    let before = contents(map);
    let mut asked = vec![absent];
    for key in keys {
        asked.extend([*key, absent]);
    }
    let removed = Batch::of(map, "TEST").unwrap().remove(&asked).unwrap();
    assert_eq!(removed, keys.len());
    let after = contents(map);
    assert_eq!(after.len() + keys.len(), before.len());
    assert!(keys.iter().all(|key| !after.contains_key(key)));
}

#[test]
fn a_hash_map() {
    let map = HashMap::<MapData, u32, u64>::create(MANY, 0).unwrap();
    let batch = Batch::of(&map, "TEST").unwrap();
    assert_eq!(contents(&map), BTreeMap::new());
    let entries: BTreeMap<u32, u64> = (0..MANY).map(|key| (key, u64::from(key) << 32)).collect();
    batch.write(entries.clone()).unwrap();
    assert_eq!(contents(&map), entries);

    // Over what is there; one more than there is room for is an error, and those before it are written.
    let full = batch.write((MANY - 1..=MANY).map(|key| (key, 1)));
    assert!(matches!(full, Err(Error::Batch { .. })), "{full:?}");
    assert_eq!(map.get(&(MANY - 1), 0).unwrap(), 1);

    removes_what_is_there(&map, &(0..CHUNK as u32 + 5).collect::<Vec<_>>(), MANY + 1);
    let mut taken = BTreeMap::new();
    batch
        .drain(|keys, values| taken.extend(keys.iter().copied().zip(values.iter().copied())))
        .unwrap();
    assert_eq!(taken.len(), MANY as usize - CHUNK - 5);
    assert_eq!(contents(&map), BTreeMap::new());
}

#[test]
fn an_lru_hash_map_of_the_datapath() {
    let directory = PinDirectory::new();
    let _kernel = Kernel::open(directory.path(), AttachMode::of_this_kernel()).unwrap();
    let pins: Pins = directory.pins();
    let map = pins.hash::<Address, Bucket>(name::SYN_LIMITS).unwrap();
    let batch = Batch::of(&map, name::SYN_LIMITS).unwrap();
    let bucket = |number: u32| Bucket {
        empty_at: u64::from(number),
    };
    batch
        .write((0..10_000).map(|number| (Address::v4(number), bucket(number))))
        .unwrap();
    let mut numbers = Vec::new();
    batch
        .visit(|keys, values| {
            for (key, value) in keys.iter().zip(values) {
                let number = value.empty_at as u32;
                assert_eq!(*key, Address::v4(number));
                numbers.push(number);
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..10_000).collect::<Vec<_>>());
    let asked: Vec<Address> = (9_990..10_010).map(Address::v4).collect();
    assert_eq!(batch.remove(&asked).unwrap(), 10);
}

#[test]
fn an_lpm_trie() {
    const NO_PREALLOC: u32 = 1;
    let map = LpmTrie::<MapData, u32, u32>::create(2 * MANY, NO_PREALLOC).unwrap();
    let batch = Batch::of(&map, "TEST").unwrap();
    let key = |number: u32| Key::new(32, number.to_be());
    batch
        .write((0..MANY).map(|number| (key(number), number)))
        .unwrap();
    batch
        .write([(Key::new(0, 0), 7), (Key::new(8, 0), 8)])
        .unwrap();
    let count = batch.keys(|_, _| true).unwrap().len();
    assert_eq!(count, MANY as usize + 2);
    assert_eq!(map.get(&key(MANY - 1), 0).unwrap(), MANY - 1);
    assert_eq!(map.get(&key(MANY), 0).unwrap(), 8);

    let odd = batch.keys(|_, value| value % 2 == 1).unwrap();
    assert_eq!(odd.len(), MANY as usize / 2 + 1);
    let mut asked = vec![key(MANY)];
    asked.extend(&odd);
    asked.push(key(MANY));
    assert_eq!(batch.remove(&asked).unwrap(), odd.len());
    assert_eq!(batch.keys(|_, value| value % 2 == 1).unwrap().len(), 0);
    assert_eq!(batch.keys(|_, _| true).unwrap().len(), count - odd.len());
}

#[test]
fn an_array() {
    let map = Array::<MapData, u64>::create(MANY, 0).unwrap();
    let batch = Batch::of(&map, "TEST").unwrap();
    batch
        .write((10..MANY).map(|index| (index, u64::from(index) + 1)))
        .unwrap();
    let found = contents(&map);
    assert_eq!(found.len(), MANY as usize);
    assert!(found.iter().all(|(index, value)| {
        *value
            == if *index < 10 {
                0
            } else {
                u64::from(*index) + 1
            }
    }));
    let beyond = batch.write([(MANY, 1)]);
    assert!(matches!(beyond, Err(Error::Batch { .. })), "{beyond:?}");
}

#[test]
fn words_of_the_arena_are_read_and_written_in_place() {
    let directory = PinDirectory::new();
    let _kernel = Kernel::open(directory.path(), AttachMode::of_this_kernel()).unwrap();
    let words = Pins::new(directory.path()).words().unwrap();
    // Within a page, across its end, several pages, the last word.
    for (start, count) in [(1, 5), (510, 4), (700, 3000), (capacity::ARENA - 1, 1)] {
        let written: Vec<u64> = (0..count).map(|word| word << 32 | 7).collect();
        words.write(start, &written).unwrap();
        assert_eq!(words.read(start, count as u32).unwrap(), written);
        assert_eq!(words.get(start).unwrap(), 7);
    }
    assert_eq!(words.read(6, 3).unwrap(), [0; 3], "between");
    assert_eq!(words.read(514, 2).unwrap(), [0; 2], "behind");
    let last = words.read(capacity::ARENA - 2, 5).unwrap();
    assert_eq!(last, [0, 7], "to the end");
    assert!(words.read(capacity::ARENA, 1).unwrap().is_empty());
    let beyond = words.write(capacity::ARENA - 1, &[1, 2]);
    assert!(matches!(beyond, Err(Error::Batch { .. })), "{beyond:?}");
    assert_eq!(
        words.get(capacity::ARENA - 1).unwrap(),
        7,
        "nothing was written"
    );
}

#[test]
fn a_map_of_another_layout_is_refused() {
    let per_cpu = PerCpuHashMap::<MapData, u32, u64>::create(8, 0).unwrap();
    let directory = tempfile::Builder::new()
        .prefix("tapwall-test-batch")
        .tempdir_in("/sys/fs/bpf")
        .unwrap();
    let pin = directory.path().join("map");
    per_cpu.pin(&pin).unwrap();
    // aya believes what it is told about the kind.
    let as_hash: HashMap<MapData, u32, u64> = Map::HashMap(MapData::from_pin(&pin).unwrap())
        .try_into()
        .unwrap();
    let refused = Batch::of(&as_hash, "TEST").map(drop);
    assert!(matches!(refused, Err(Error::Batch { .. })), "{refused:?}");
}
