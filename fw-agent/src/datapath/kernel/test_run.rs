//! Programs on single frames, without a device that carries them.

use aya::programs::{TestRun, TestRunOptions, TestRunResult};

use super::Kernel;
use crate::datapath::attach::{self, Hook, Role};
use crate::datapath::{Error, uplink};

/// What the kernel would know of a frame under test.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TestPlace {
    /// Interface of the hook.
    pub ifindex: u32,
    /// Interface that the frame came in at; 0: made here.
    pub ingress_ifindex: u32,
    /// Its mark.
    pub mark: u32,
}

impl TestPlace {
    /// The `struct __sk_buff` that says so.
    pub(in crate::datapath) fn context(self) -> [u8; 192] {
        /// Offsets in it.
        const MARK: usize = 8;
        const INGRESS_IFINDEX: usize = 36;
        const IFINDEX: usize = 40;
        let mut context = [0; 192];
        for (offset, value) in [
            (MARK, self.mark),
            (INGRESS_IFINDEX, self.ingress_ifindex),
            (IFINDEX, self.ifindex),
        ] {
            context[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        }
        context
    }
}

impl Kernel {
    /// Runs a program on a frame (`BPF_PROG_TEST_RUN`), as if at a hook of interface `ifindex` of this network namespace.
    ///
    /// # Errors
    /// The kernel refuses the frame (too short or too long).
    pub fn test_run(
        &mut self,
        hook: Hook,
        ifindex: u32,
        frame: &[u8],
        answer: &mut [u8],
    ) -> Result<TestRunResult, Error> {
        let at = TestPlace {
            ifindex,
            ..TestPlace::default()
        };
        self.test_run_at(Role::Guest, hook, at, frame, answer)
    }

    /// Likewise, for a program of a role, with more of what the kernel would know of the frame.
    ///
    /// # Errors
    /// As [`Kernel::test_run`].
    pub fn test_run_at(
        &mut self,
        role: Role,
        hook: Hook,
        at: TestPlace,
        frame: &[u8],
        answer: &mut [u8],
    ) -> Result<TestRunResult, Error> {
        let context = at.context();
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(answer),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        self.programs.with(|ebpf| {
            let program = attach::classifier(ebpf, role, hook)?;
            program.test_run(options).map_err(|source| Error::Program {
                program: hook.program(role),
                source,
            })
        })
    }

    /// Runs the XDP program on a frame.
    ///
    /// # Errors
    /// The kernel refuses the frame.
    pub fn test_run_uplink(&mut self, frame: &[u8]) -> Result<TestRunResult, Error> {
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        self.programs.with(|ebpf| {
            let program = uplink::program(ebpf)?;
            program.test_run(options).map_err(uplink::refused)
        })
    }
}
