//! What AF_XDP sockets need of bpf(2): the default program that sends each queue's packets to its socket, and
//! the map of those sockets.

use std::os::fd::{AsFd, BorrowedFd};

use bpf::Insn;
use uapi::Errno;
use uapi::bpf::*;
use uapi::xdp::{BPF_XDP, XdpAction};

use crate::sys::{Link, Map, MapArgs, Prog, ProgArgs, ProgError};

/// The program that libxdp loads for a socket, too: packets of a queue that has a socket go to it, others to
/// the host's stack. Dropping it detaches the program.
#[derive(Debug)]
pub struct RedirectProgram {
    xsks_map: Map,
    _prog: Prog,
    _link: Link,
}

/// Which hook to attach to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AttachMode {
    /// The driver's if it has one, else generic mode.
    #[default]
    Unspecified,
    /// Generic mode.
    Skb,
    /// The driver's hook.
    Native,
}

impl AttachMode {
    fn flags(self) -> u32 {
        match self {
            Self::Unspecified => 0,
            Self::Skb => 1 << 1,
            Self::Native => 1 << 2,
        }
    }
}

impl RedirectProgram {
    /// Loads and attaches the program. `frags` says that it takes packets in several buffers, which sockets
    /// with `XDP_USE_SG` need above one page.
    ///
    /// # Errors
    ///
    /// The kernel's errno, and the verifier's log if it has one: `EBUSY` if a program is attached already.
    pub fn attach(ifindex: u32, queues: u32, mode: AttachMode, frags: bool) -> Result<Self, ProgError> {
        let bare = |errno| ProgError { errno, log: String::new() };
        let xsks_map = Map::create(&MapArgs {
            map_type: MapType::Xskmap as u32,
            max_entries: queues,
            name: "xsks_map",
            ..MapArgs::default()
        })
        .map_err(bare)?;
        let flags = if frags { BPF_F_XDP_HAS_FRAGS } else { 0 };
        let insns = default_program(xsks_map.as_fd());
        let args = ProgArgs {
            insns: &insns,
            name: "xsk_def_prog",
            flags,
            attach_type: BPF_XDP,
            ..ProgArgs::default()
        };
        let (prog, _) = Prog::load(&args)?;
        let link = Link::create(prog.as_fd(), ifindex, mode.flags()).map_err(bare)?;
        Ok(Self { xsks_map, _prog: prog, _link: link })
    }

    /// Sends the packets of a queue to a socket, by its descriptor's number.
    ///
    /// # Errors
    ///
    /// The kernel's errno: `E2BIG` for a queue above those asked for, `EOPNOTSUPP` for another kind of socket.
    pub fn insert(&self, queue: u32, socket: i32) -> Result<(), Errno> {
        self.xsks_map.update(&queue.to_ne_bytes(), &socket.to_ne_bytes(), 0)
    }

    /// Lets the packets of a queue pass again.
    ///
    /// # Errors
    ///
    /// The kernel's errno.
    pub fn remove(&self, queue: u32) -> Result<(), Errno> {
        self.xsks_map.delete(&queue.to_ne_bytes())
    }
}

/// `return bpf_redirect_map(&xsks_map, ctx->rx_queue_index, XDP_PASS)`.
fn default_program(xsks_map: BorrowedFd<'_>) -> [Insn; 6] {
    use std::os::fd::AsRawFd;
    const RX_QUEUE_INDEX: i16 = 16;
    const MAP_FD: u8 = 1;
    [
        Insn::new(BPF_LDX | BPF_MEM | BPF_W, 2, 1, RX_QUEUE_INDEX, 0),
        Insn::new(BPF_LD | BPF_IMM | BPF_DW, 1, MAP_FD, 0, xsks_map.as_raw_fd()),
        Insn::new(0, 0, 0, 0, 0),
        Insn::new(BPF_ALU64 | BPF_MOV | BPF_K, 3, 0, 0, XdpAction::Pass as i32),
        Insn::new(BPF_JMP | BPF_CALL, 0, 0, 0, 51),
        Insn::new(BPF_JMP | BPF_EXIT, 0, 0, 0, 0),
    ]
}
