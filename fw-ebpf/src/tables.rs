//! The pipeline's tables as BPF maps. Layouts, names and capacities: `fw_common::maps`.

use core::arch::asm;
use core::hint::black_box;

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::map;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use fw_common::ban::Ban;
use fw_common::classify::Values;
use fw_common::conntrack::{CtState, Tracked};
use fw_common::decision::References;
use fw_common::event::FlowNews;
use fw_common::flow::{Flow, FlowKey, FlowRef};
use fw_common::limit::Bucket;
use fw_common::maps::policy::FIELDS;
use fw_common::maps::{
    BanKey, ClassKeyV4, ClassKeyV6, FragmentKey, FragmentValue, Port, RuleWord, SPACE_BITS,
    Settings, capacity, counter,
};
use fw_common::pipeline;
use fw_common::tables::{Tables, Words};
use fw_common::verdict::{Direction, NO_RULE, Reason};
use fw_common::wire::{Address, Headers, IpVersion};

use crate::ledger::count_once;
use crate::{half_open, stage, usage};

/// `BPF_F_MMAPABLE` of the kernel's `bpf.h`: the agent writes words, not the whole value.
pub const MAPPABLE: u32 = 1 << 10;

#[map]
static PORTS: HashMap<u32, Port> = HashMap::with_max_entries(capacity::PORTS, 0);
#[map]
static ARENA: Array<[u64; capacity::ARENA as usize]> = Array::with_max_entries(1, MAPPABLE);
#[map]
static CLASSES_V4: LpmTrie<ClassKeyV4, u32> = LpmTrie::with_max_entries(capacity::CLASSES, 0);
#[map]
static CLASSES_V6: LpmTrie<ClassKeyV6, u32> = LpmTrie::with_max_entries(capacity::CLASSES, 0);
#[map]
static BANS: LpmTrie<BanKey, Ban> = LpmTrie::with_max_entries(capacity::BANS, 0);
#[map]
static HAS_BANS: Array<u32> = Array::with_max_entries(1, 0);
#[map]
static FLOWS: HashMap<FlowKey, Flow> =
    HashMap::with_max_entries(capacity::entries(capacity::FLOWS), 0);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue> =
    LruHashMap::with_max_entries(capacity::FRAGMENTS, 0);
#[map]
static SYN_LIMITS: LruHashMap<Address, Bucket> =
    LruHashMap::with_max_entries(capacity::SYN_LIMITS, 0);
#[map]
static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// The clock as it was last read on this CPU.
#[repr(C)]
struct Clock {
    /// Jiffies at that time.
    tick: u64,
    /// The coarse clock at that time, in nanoseconds.
    now: u64,
}

#[map]
static CLOCK: PerCpuArray<Clock> = PerCpuArray::with_max_entries(1, 0);

#[map]
static SCRATCH: PerCpuArray<Headers> = PerCpuArray::with_max_entries(1, 0);

/// Empty headers of this CPU, valid until the program ends. They are not on the stack, of which kernels before 6.8 give a chain of calls little.
#[inline(always)]
pub fn headers() -> Option<&'static mut Headers> {
    let headers = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own value; a program calls this once, and programs at these hooks do not interrupt each other.
    let headers = unsafe { &mut *headers };
    clear(headers);
    Some(headers)
}

/// Makes headers empty, padding and all. Of a constant the compiler would make a call of a loop over bytes.
#[inline(always)]
pub fn clear(headers: &mut Headers) {
    type Words = [u64; size_of::<Headers>() / 8];
    const { assert!(size_of::<Words>() == size_of::<Headers>() && align_of::<Headers>() == 8) };
    // SAFETY: the words are exactly the value, and zeros are `Headers::default()`: all of its fields are zero.
    unsafe {
        core::ptr::from_mut(headers)
            .cast::<Words>()
            .write([black_box(0); _])
    }
}

/// `BPF_NOEXIST` of the kernel's `bpf.h`.
const ONLY_NEW: u64 = 1;
/// `-EEXIST`.
const EXISTS: i32 = -17;

/// Handle of all maps.
#[derive(Clone, Copy)]
pub struct Maps;

/// Whether the bucket of a source of connection requests has a token.
#[inline(always)]
pub fn has_syn(source: &Address, interval: u64, burst: u32) -> bool {
    let bucket = match SYN_LIMITS.get_ptr(source) {
        // SAFETY: map values stay readable until the program ends; one word is read.
        Some(bucket) => unsafe { *bucket },
        None => Bucket::default(),
    };
    bucket.has(Maps.now(), interval, burst)
}

#[inline(always)]
fn flow_ref<'a>(entry: Option<*mut Flow>) -> Option<FlowRef<'a>> {
    // SAFETY: map values are aligned, and stay readable until the program ends even if the entry is deleted meanwhile.
    entry.map(|flow| unsafe { FlowRef::new(flow) })
}

/// The arena: a pointer to its first word, found once, so that a word costs no lookup of its own.
#[derive(Clone, Copy)]
struct Arena(*const u64);

impl Words for Arena {
    #[inline(always)]
    fn word(self, index: u32) -> Option<u64> {
        const LAST: u32 = capacity::ARENA - 1;
        const { assert!(capacity::ARENA.is_power_of_two()) };
        if index > LAST {
            return None;
        }
        let word: u64;
        // SAFETY: `index` is one of the arena's. The compiler knows, and may forget it where the verifier looks: so it is told once more.
        unsafe {
            asm!(
                "{at} &= {last}",
                "{at} <<= 3",
                "{at} += {arena}",
                "{at} = *(u64 *)({at} + 0)",
                at = inout(reg) u64::from(index) => word,
                arena = in(reg) self.0,
                last = const LAST,
                options(pure, readonly, nostack),
            );
        }
        Some(word)
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn port(&self, ifindex: u32) -> Option<&Port> {
        // SAFETY: the agent replaces whole values; a reader sees one or the other entry.
        unsafe { PORTS.get(ifindex) }
    }

    #[inline(always)]
    fn words(&self) -> Option<impl Words> {
        ARENA.get_ptr(0).map(|arena| Arena(arena.cast()))
    }

    #[inline(always)]
    fn longest_prefix(&self, space: u32, version: IpVersion, address: &Address) -> u32 {
        let space = space.to_be();
        let class = match version {
            IpVersion::V4 => CLASSES_V4.get(Key::new(SPACE_BITS + 32, [space, address.0[3]])),
            IpVersion::V6 => {
                let [a, b, c, d] = address.0;
                CLASSES_V6.get(Key::new(SPACE_BITS + 128, [space, a, b, c, d]))
            }
            IpVersion::None => None,
        };
        class.copied().unwrap_or(0)
    }

    #[inline(always)]
    fn has_bans(&self) -> bool {
        HAS_BANS.get(0).is_none_or(|some| *some != 0)
    }

    #[inline(always)]
    fn ban(&self, address: &Address, bits: u32) -> Option<Ban> {
        BANS.get(Key::new(bits, address.0)).copied()
    }

    #[inline(always)]
    fn may_know(&self, key: &FlowKey) -> bool {
        stage::may_know_flow(key) != 0
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<FlowRef<'_>> {
        flow_ref(FLOWS.get_ptr_mut(key))
    }

    #[inline(always)]
    fn half_open(&self, key: &FlowKey) -> Option<FlowRef<'_>> {
        match stage::find_half_open(key) {
            stage::NO_ENTRY => None,
            number => flow_ref(half_open::flow(number)),
        }
    }

    #[inline(always)]
    fn insert_half_open(&self, key: &FlowKey, flow: &Flow) -> bool {
        let done = stage::insert_half_open(key, flow) != 0;
        if !done {
            count_once(counter::FLOWS_REFUSED);
        }
        done
    }

    #[inline(always)]
    fn establish(&self, key: &FlowKey, flow: &Flow) -> bool {
        if !usage::has_room(key, self.settings().flow_quota) {
            count_once(counter::FLOWS_OVER_QUOTA);
            return false;
        }
        match FLOWS.insert(key, flow, ONLY_NEW) {
            Ok(()) => usage::add(key, 1),
            // The other direction's packet was faster.
            Err(EXISTS) => {}
            Err(_) => {
                count_once(counter::FLOWS_REFUSED);
                return false;
            }
        }
        stage::note_flow(key);
        // Not there any more is fine: the other direction's packet was faster.
        stage::remove_half_open(key) != 0
    }

    #[inline(always)]
    fn remove_flow(&self, key: &FlowKey) {
        // Removed meanwhile is fine: gone is what was asked for.
        if FLOWS.remove(key).is_ok() {
            usage::add(key, -1);
        }
    }

    #[inline(always)]
    fn tell_flow(&self, key: &FlowKey, news: FlowNews) {
        stage::tell_flow(key, news.to_bits());
    }

    #[inline(always)]
    fn remember_fragment(&self, key: &FragmentKey, value: &FragmentValue) {
        if FRAGMENTS.insert(key, value, 0).is_err() {
            // The datagram's later fragments will be dropped, and counted as that.
        }
    }

    #[inline(always)]
    fn first_fragment(&self, key: &FragmentKey) -> Option<FragmentValue> {
        // SAFETY: values are replaced as a whole; a torn read could only mix two first fragments of one datagram.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn take_syn(&self, source: &Address, interval: u64, burst: u32) -> bool {
        let now = self.now();
        if let Some(bucket) = SYN_LIMITS.get_ptr_mut(source) {
            // SAFETY: map values stay readable until the program ends. Two CPUs that take at once may get one token twice.
            return unsafe { (*bucket).take(now, interval, burst) };
        }
        let mut bucket = Bucket::default();
        let taken = bucket.take(now, interval, burst);
        if SYN_LIMITS.insert(source, bucket, 0).is_err() {
            // Without a bucket the next request begins a new one.
        }
        taken
    }

    #[inline(always)]
    fn settings(&self) -> Settings {
        SETTINGS.get(0).copied().unwrap_or_default()
    }

    /// The coarse clock moves with the kernel's ticks, so it is read once per tick. How many there were is a variable, which the kernel's
    /// compiler reads without a call.
    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: the helper has no arguments.
        let tick = unsafe { bpf_jiffies64() };
        let Some(clock) = CLOCK.get_ptr_mut(0) else {
            // SAFETY: as above.
            return unsafe { bpf_ktime_get_coarse_ns() };
        };
        // SAFETY: this CPU's own value; programs at these hooks do not interrupt each other.
        unsafe {
            if (*clock).tick != tick {
                (*clock).now = bpf_ktime_get_coarse_ns();
                (*clock).tick = tick;
            }
            (*clock).now
        }
    }

    #[inline(always)]
    fn track(&self, port: &Port, direction: Direction, headers: &Headers) -> Tracked {
        let tracked = pipeline::track_by(*self, port, direction, headers, |sought| {
            Tracked::from_bits(stage::track(port, direction as u32, headers, sought as u32))
        });
        // As after a stage: what a value leaves undefined may be a pointer in a register, which the verifier does not let anyone compute with.
        Tracked::from_bits(black_box(tracked.to_bits()))
    }

    #[inline(always)]
    fn fill_values(
        &self,
        port: &Port,
        headers: &Headers,
        state: CtState,
        policy: u32,
        values: &mut Values,
    ) {
        stage::fill_values(port, headers, state as u32, policy, values);
    }

    #[inline(always)]
    fn fill_opening(
        &self,
        port: &Port,
        headers: &Headers,
        is_reply: bool,
        policy: u32,
        values: &mut Values,
    ) {
        stage::fill_opening(port, headers, u32::from(is_reply), policy, values);
    }

    #[inline(always)]
    fn exceeds_syn_limit(&self, headers: &Headers) -> bool {
        stage::exceeds_syn_limit(headers) != 0
    }

    #[inline(always)]
    fn fill_claim(&self, port: &Port, target: &Address, values: &mut Values) {
        stage::fill_claim(port, target, values);
    }

    #[inline(always)]
    fn note_checked(&self, port: &Port, headers: &Headers) {
        stage::note_checked(port, headers);
    }

    #[inline(always)]
    fn complete_fragment(
        &self,
        port: &Port,
        direction: Direction,
        headers: &mut Headers,
    ) -> Result<(), Reason> {
        stage::result(stage::complete_fragment(port, direction as u32, headers))
    }

    #[inline(always)]
    fn is_banned(&self, headers: &Headers) -> bool {
        self.has_bans() && stage::is_banned(headers) != 0
    }

    #[inline(always)]
    fn is_blacklisted(&self, port: &Port, headers: &Headers) -> bool {
        stage::is_blacklisted(port, headers) != 0
    }

    #[inline(always)]
    fn ancestor(&self, space: u32, class: u32, known: u32) -> Option<u32> {
        match stage::ancestor(space, class, known) {
            stage::NO_CLASS => None,
            class => Some(class),
        }
    }

    #[inline(always)]
    fn classify(&self, policy: u32, values: &Values) -> Option<RuleWord> {
        match stage::classify(policy, values) {
            stage::NO_RULE_WORD => None,
            word => Some(RuleWord(word)),
        }
    }

    #[inline(always)]
    fn decided(&self, identity: u64, references: &References) -> Option<u32> {
        match stage::decided(identity, references) {
            NO_RULE => None,
            rule => Some(rule),
        }
    }

    #[inline(always)]
    fn remember(&self, identity: u64, references: &References, rule: u32) {
        stage::remember(identity, references, rule);
    }

    #[inline(always)]
    fn first_of_group(&self, policy: u32, references: &[u64; FIELDS], group: u32) -> Option<u32> {
        match stage::first_of_group(policy, references, group) {
            stage::NO_GROUP => None,
            rule => Some(rule),
        }
    }

    #[inline(always)]
    fn commit(
        &self,
        port: &Port,
        direction: Direction,
        headers: &Headers,
        tracked: Tracked,
        rule: u32,
    ) {
        stage::commit(port, direction as u32, headers, tracked.to_bits(), rule);
    }
}
