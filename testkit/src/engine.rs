//! Running bare instructions on the engine.

use std::sync::Arc;

use bpf::Insn;
use bpf::host::{Clock, Host};
use bpf::object::ProgramSpec;
use bpf::redirect::RedirectInfo;
use bpf::verifier::{self, Input};
use bpf::vm::{Fault, HelperFn, LinkError, Program, Run, Scratch, Symbols};
use mem::{Frame, RxqInfo, XdpBuff};
use uapi::bpf::func;
use uapi::xdp::{XDP_PACKET_HEADROOM, XDP_TAILROOM};

/// A receive queue as BPF_PROG_TEST_RUN has it: loopback, queue 0.
pub const RXQ: RxqInfo = RxqInfo { ifindex: 1, queue_index: 0, mem_type: 0, frag_size: 4096 };

/// A host whose clock stands still and whose random numbers are a sequence.
#[derive(Clone, Debug, Default)]
pub struct FixedHost {
    /// What every clock says, nanoseconds.
    pub time_ns: u64,
    /// The next random number.
    pub random: u32,
}

impl Host for FixedHost {
    fn ktime_ns(&mut self, _: Clock) -> u64 {
        self.time_ns
    }

    fn prandom_u32(&mut self) -> u32 {
        self.random = self.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.random
    }
}

/// The symbols that programs of the corpus call.
#[must_use]
pub fn symbols() -> Symbols {
    fn ktime(run: &mut Run<'_, '_>, _: [u64; 5]) -> Result<u64, Fault> {
        Ok(run.host.ktime_ns(Clock::Monotonic))
    }
    Symbols { helper: |id| (id == func::KTIME_GET_NS).then_some(ktime as HelperFn), kfunc: |_| None }
}

/// Links bare instructions.
///
/// # Errors
///
/// Why they are no program.
pub fn link(insns: &[Insn]) -> Result<Arc<Program>, LinkError> {
    Program::link(&ProgramSpec::bare("test", insns.to_vec()), 1, &[], symbols()).map(Arc::new)
}

/// Verifies bare instructions and makes machine code of them.
///
/// # Errors
///
/// Why the verifier refuses them, or why they cannot be compiled.
pub fn compile(insns: &[Insn]) -> Result<Arc<Program>, String> {
    let spec = ProgramSpec::bare("test", insns.to_vec());
    let input = Input::of_program(&spec, &[], "GPL", None, None);
    let verified = verifier::verify(&input, &verifier::Options::default()).map_err(|e| e.to_string())?;
    let mut program = Program::link_verified(&spec, 1, &[], verified).map_err(|e| e.to_string())?;
    program.compile(false).map_err(|e| e.to_string())?;
    Ok(Arc::new(program))
}

/// Runs a compiled program once: R0 and the packet afterwards.
///
/// # Panics
///
/// If the program is not compiled.
pub fn run_compiled(program: &Arc<Program>, data: &[u8]) -> (u64, Vec<u8>) {
    let mut buff = packet(data);
    let (mut redirect, mut host) = (RedirectInfo::default(), FixedHost::default());
    let guard = mem::epoch::pin();
    let run = Run::compiled(program, &guard, &mut buff, &mut redirect, &mut host);
    let r0 = run.expect("it is compiled").execute().expect("compiled code does not fault");
    (r0, buff.to_vec())
}

/// A packet of exactly these bytes.
///
/// # Panics
///
/// If it has more than a few kilobytes.
#[must_use]
pub fn packet(data: &[u8]) -> XdpBuff<'static> {
    let frame = Frame::new((XDP_PACKET_HEADROOM + data.len() + XDP_TAILROOM).next_multiple_of(4096));
    let buff = XdpBuff::new(frame, XDP_PACKET_HEADROOM, data.len(), &RXQ).expect("the frame is large enough");
    buff.linear().copy_from(0, data);
    buff
}

/// Runs a program once in the checked interpreter: R0, or the violation, and the packet afterwards.
pub fn interpret(program: &Arc<Program>, data: &[u8], fuel: u64) -> (Result<u64, Fault>, Vec<u8>) {
    let mut buff = packet(data);
    let (mut scratch, mut redirect, mut host) =
        (Scratch::new(), RedirectInfo::default(), FixedHost::default());
    let guard = mem::epoch::pin();
    let run = Run::checked(program, &guard, &mut scratch, &mut buff, &mut redirect, &mut host);
    let result = run.with_fuel(fuel).execute();
    (result, buff.to_vec())
}
