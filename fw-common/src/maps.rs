//! Layouts and capacities of everything that lives in maps.
//!
//! The agent writes these, the kernel reads them; both see the same `repr(C)` structs without padding. A change of any layout here is a
//! new [`ABI`], and with it a new pin directory.

/// Version of all layouts in this file and in [`crate::flow`] and [`crate::event`]; the last part of the pin directory's name.
pub const ABI: u32 = 1;

/// Conditions that are not an address, a port or a protocol, packed in one byte per packet.
///
/// A rule looks at some of the bits (`mask`) and wants them to have some value.
pub mod traits {
    /// The destination is a broadcast or multicast address, at layer 2 or 3.
    pub const TO_GROUP: u8 = 1 << 0;
    /// The source is a broadcast or multicast address (a smurf).
    pub const FROM_GROUP: u8 = 1 << 1;
    /// Connection tracking calls the packet INVALID.
    pub const INVALID: u8 = 1 << 2;
    /// Connection tracking calls the packet NEW.
    pub const NEW: u8 = 1 << 3;
    /// TCP whose FIN, SYN, RST and ACK flags are anything but SYN alone.
    pub const NOT_SYN: u8 = 1 << 4;
    /// TCP with a combination of flags that no stack sends (spec: `tcpflags`).
    pub const BAD_TCP_FLAGS: u8 = 1 << 5;
}
