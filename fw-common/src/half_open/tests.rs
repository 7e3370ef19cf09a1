use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;

use super::shared::{Removal, WORDS};
use super::{CHUNK, ENTRIES, Shared};
use crate::flow::{Flow, FlowKey};
use crate::wire::Address;

fn memory() -> Vec<AtomicU64> {
    (0..WORDS).map(|_| AtomicU64::new(0)).collect()
}

fn key(number: u32) -> FlowKey {
    FlowKey {
        vmid: 100,
        net: 0,
        protocol: 17,
        version: 4,
        local: Address::v4(1),
        remote: Address::v4(number),
        local_port: 53,
        remote_port: number as u16,
    }
}

/// A flow that says whose it is.
fn flow(number: u32) -> Flow {
    Flow {
        seen: u64::from(number),
        created: u64::from(number),
        rule: number,
        ..Flow::default()
    }
}

fn insert(ring: Shared<'_>, cursor: &mut u64, number: u32) {
    assert!(ring.insert(cursor, &key(number), &flow(number)));
}

#[test]
fn flows_are_found_changed_and_removed_by_their_keys() {
    let memory = memory();
    let ring = Shared::new(&memory).unwrap();
    let mut cursor = 0;
    assert_eq!(ring.get(&key(1)), None);
    for number in 0..1000 {
        insert(ring, &mut cursor, number);
    }
    for number in 0..1000 {
        assert_eq!(ring.get(&key(number)), Some(flow(number)));
    }
    assert_eq!(ring.get(&key(1000)), None);
    // Another flow under the same key takes the old one's place.
    assert!(ring.insert(&mut cursor, &key(7), &flow(77)));
    assert_eq!(ring.get(&key(7)), Some(flow(77)));
    assert!(ring.update(&key(7), &flow(7)));
    assert!(ring.remove(&key(8)));
    assert!(!ring.remove(&key(8)));
    assert!(!ring.update(&key(8), &flow(8)));
    let mut found = HashMap::new();
    ring.visit(|key, flow| {
        assert_eq!(found.insert(*key, *flow), None, "shown twice");
    });
    let expect = (0..1000).filter(|number| *number != 8);
    assert_eq!(
        found,
        expect.map(|number| (key(number), flow(number))).collect()
    );
}

#[test]
fn what_is_taken_out_for_a_look_is_put_back() {
    let memory = memory();
    let ring = Shared::new(&memory).unwrap();
    insert(ring, &mut 0, 1);
    let kept = ring.remove_if(&key(1), |found| {
        assert_eq!(*found, flow(1));
        assert_eq!(ring.get(&key(1)), None, "nobody finds it meanwhile");
        false
    });
    assert_eq!(kept, Removal::Kept);
    assert_eq!(ring.get(&key(1)), Some(flow(1)));
    assert_eq!(ring.remove_if(&key(1), |_| true), Removal::Removed(flow(1)));
    assert_eq!(ring.remove_if(&key(1), |_| true), Removal::Gone);
    assert_eq!(ring.get(&key(1)), None);
}

#[test]
fn the_oldest_give_way() {
    let memory = memory();
    let ring = Shared::new(&memory).unwrap();
    let mut cursor = 0;
    let all = 5 * ENTRIES;
    for number in 0..all {
        insert(ring, &mut cursor, number);
    }
    let lost = |numbers: core::ops::Range<u32>| {
        let lost = numbers.filter(|number| ring.get(&key(*number)) != Some(flow(*number)));
        lost.count() as u32
    };
    assert_eq!(lost(0..all - ENTRIES), all - ENTRIES);
    let (of_all, of_younger) = (lost(all - ENTRIES..all), lost(all - ENTRIES / 2..all));
    println!("lost before their time: {of_all} of {ENTRIES}, {of_younger} of the younger half");
    // Few sets are so full that one has to go before its entry is written over.
    assert!(of_all < ENTRIES / 50);
    assert!(of_younger < ENTRIES / 1000);
    let mut count = 0;
    ring.visit(|_, _| count += 1);
    assert!(count > ENTRIES * 98 / 100 && count <= ENTRIES);
}

#[test]
fn a_chunk_that_was_begun_long_ago_is_left() {
    let memory = memory();
    let ring = Shared::new(&memory).unwrap();
    let (mut idle, mut busy) = (0, 0);
    insert(ring, &mut idle, 1);
    for number in 2..ENTRIES {
        insert(ring, &mut busy, number);
    }
    let before = idle;
    insert(ring, &mut idle, ENTRIES);
    assert!(
        idle > before + CHUNK,
        "it would have written over a new one"
    );
    // One that is younger goes on.
    let before = busy;
    insert(ring, &mut busy, ENTRIES + 1);
    assert_eq!(busy, before + 1);
}

#[test]
fn threads_find_their_own_flows_while_all_write() {
    const THREADS: u32 = 4;
    const EACH: u32 = 200_000;
    let memory = memory();
    let ring = Shared::new(&memory).unwrap();
    let (removed, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (removed, lost) = (&removed, &lost);
            scope.spawn(move || {
                let mut cursor = 0;
                for turn in 0..EACH {
                    let number = turn * THREADS + thread;
                    // Others that are faster several times in a row in one set are a matter of luck.
                    let there = ring.insert(&mut cursor, &key(number), &flow(number));
                    match ring.get(&key(number)) {
                        Some(found) => assert_eq!(found, flow(number)),
                        None if there => drop(lost.fetch_add(1, Ordering::Relaxed)),
                        None => {}
                    }
                    // Everybody removes the same ones: one has.
                    if ring.remove(&key(turn / 8 * THREADS)) {
                        removed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert!(removed.into_inner() <= u64::from(EACH));
    // Unless it is removed by another thread, or this one slept while all others went round the whole ring, a flow is there.
    assert!(lost.into_inner() < u64::from(THREADS * EACH / 50));
    ring.visit(|key, flow| assert_eq!(key.remote, Address::v4(flow.rule)));
}
