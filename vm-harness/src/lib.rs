//! Boots real kernels in QEMU and runs the tests there; see `README.md` for what exists.
