//! The data path: devices, NAPI, redirect, attach and generic mode, with the kernel's semantics.
//!
//! - [`Skb`] and [`XdpFrame`] are packets outside of a poll, [`mem::XdpBuff`] is one inside.
//! - [`NetContext`] is what one CPU keeps for all of this; [`Softirq`] is it at work, and [`NapiCtx`] one poll,
//!   which can end only by flushing.
//! - [`NetDevice`] is a device; [`drivers`] has them. [`redirect`] moves frames between them.
//! - [`DropReason`] says why a packet ended, [`TraceEvent`] is what the kernel's tracepoints would say.
//!
//! Nothing here reads a clock, starts a thread, does I/O or draws random numbers: `machine` supplies all of
//! that. No lock is taken and no memory allocated per packet: rings and counters are touched once a batch.
#![forbid(unsafe_code)]

mod attach;
mod context;
mod cow;
mod device;
pub mod drivers;
mod engine;
mod frame;
mod generic;
mod live;
mod reason;
pub mod redirect;
mod send;
mod skb;
#[cfg(test)]
mod testing;

mod trace;
mod verdicts;

pub use attach::{AttachFlags, Mode, ProgramHandle, SetupError, XdpLink, XdpRequest, XdpStatus};
pub use context::{
    NAPI_POLL_WEIGHT, NETDEV_BUDGET, NETDEV_MAX_BACKLOG, NapiCtx, NapiRef, NetContext, Polled, Softirq,
};
pub use device::{
    DEVICES_MAX, DeviceConfig, DeviceCore, DeviceCounters, Devices, ETH_DATA_LEN, ETH_MAX_MTU, Feature,
    NetDevice, NetdevTx, RingItem, VLAN_HLEN, Xmit, XmitError, XmitFlags,
};
pub use engine::{Engine, Interp, Native};
pub use frame::XdpFrame;
pub use live::{LIVE_BATCH_DEFAULT, LIVE_BATCH_MAX, LIVE_LEN_MAX, LiveRun, LiveStats};
pub use reason::{DropCounters, DropReason};
pub use skb::{PacketType, Skb};
pub use trace::{Journal, Note, Trace, TraceEvent, Tracepoint};
pub use verdicts::Verdicts;
