//! [`Run`]: one packet's run of one program, as helpers see it.

use mem::{SharedSlice, XdpBuff};

use super::{Access, Fault, GuestMemory, RegionKind};
use crate::host::Host;
use crate::redirect::RedirectInfo;

/// The state of one run.
pub struct Run<'r, 'q> {
    /// The packet.
    pub buff: &'r mut XdpBuff<'q>,
    /// Where redirects point; it outlives the packet.
    pub redirect: &'r mut RedirectInfo,
    /// The world around.
    pub host: &'r mut dyn Host,
    /// What the program can reach.
    pub memory: GuestMemory<'r>,
}

impl<'r> Run<'r, '_> {
    /// Bytes that a helper reads through a pointer of the program's.
    ///
    /// # Errors
    ///
    /// The violation.
    pub fn read(&self, addr: u64, len: u64) -> Result<SharedSlice<'r>, Fault> {
        self.memory.slice(addr, len, Access::Read)
    }

    /// Bytes that a helper writes through a pointer of the program's.
    ///
    /// # Errors
    ///
    /// The violation.
    pub fn write(&self, addr: u64, len: u64) -> Result<SharedSlice<'r>, Fault> {
        self.memory.slice(addr, len, Access::Write)
    }

    /// Gives the program a pointer.
    pub fn expose(&mut self, kind: RegionKind, bytes: SharedSlice<'r>, writable: bool) -> u64 {
        self.memory.expose(kind, bytes, writable)
    }
}
