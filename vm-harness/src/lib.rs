//! Boots real kernels in QEMU and runs Tapwall's tests there.
//!
//! Two programs. `vm-harness` runs outside, in these steps:
//!
//! 1. `kernels`: newest Debian kernel of each supported line, cached. 2. `programs`: what cargo built, with the libraries it needs.
//! 3. `modules`: the kernel modules that the tests need, in an order in which they can be inserted. 4. `suites`: which tests, and why not the
//!    others. 5. `image`: all of it as the machine's first file system. 6. `qemu`: boot it. 7. `watch`: listen to it until it is done, silent or dead.
//! 8. `report`: say what happened.
//!
//! `vm-init` is the machine's first process: it mounts, inserts modules, runs the tests of its [`protocol::Job`] one by one, says what became of
//! each, and powers off.
//!
//! Invariant: success needs an explicit `Done` from inside and no failed test; silence, a panic and a crash are failures.

pub mod image;
pub mod kernels;
pub mod libtest;
pub mod modules;
pub mod programs;
pub mod protocol;
pub mod qemu;
pub mod report;
pub mod suites;
pub mod watch;
