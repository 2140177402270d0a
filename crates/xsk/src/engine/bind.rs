//! bind(2): every refusal in the kernel's order.
//!
//! Kernel: `net/xdp/xsk.c xsk_bind, net/xdp/xsk_buff_pool.c xp_assign_dev, v6.18`

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};

use uapi::Errno;
use uapi::if_xdp::*;

use super::pool::Pool;
use super::sanitizer::Watch;
use super::socket::{Control, Link, completion_side, fill_side};
use super::umem::EngineUmem;
use super::{XskDevice, XskSocket, locked};

const KNOWN_FLAGS: u16 = XDP_SHARED_UMEM | XDP_COPY | XDP_ZEROCOPY | XDP_USE_NEED_WAKEUP | XDP_USE_SG;
/// Flags that a socket which shares takes from the one that it shares with.
const OWN_FLAGS: u16 = XDP_COPY | XDP_ZEROCOPY | XDP_USE_NEED_WAKEUP | XDP_USE_SG;

/// What is to be bound to.
struct Target {
    device: Arc<dyn XskDevice>,
    ifindex: u32,
    /// 16 bits of the 32 that were given, as in the kernel: 65536 is queue 0.
    queue: u16,
    flags: u16,
}

impl XskSocket {
    pub(super) fn bind_to(&self, addr: &[u8]) -> Result<(), Errno> {
        let addr = SockaddrXdp::from_bytes(addr).ok_or(Errno::EINVAL)?;
        if addr.family != AF_XDP || addr.flags & !KNOWN_FLAGS != 0 {
            return Err(Errno::EINVAL);
        }
        let mut control = locked(&self.control);
        if control.bound_dev_if.is_some_and(|dev| dev != addr.ifindex) {
            return Err(Errno::EINVAL);
        }
        if control.bound {
            return Err(Errno::EBUSY);
        }
        let device = self.host.device(addr.ifindex).ok_or(Errno::ENODEV)?;
        if control.rx.is_none() && control.tx.is_none() {
            return Err(Errno::EINVAL);
        }
        let queue = addr.queue_id as u16;
        let target = Target { device, ifindex: addr.ifindex, queue, flags: addr.flags };
        let link = if addr.flags & XDP_SHARED_UMEM != 0 {
            self.bind_shared(&control, target, addr.shared_umem_fd)?
        } else {
            let umem = control.umem.clone().ok_or(Errno::EINVAL)?;
            self.own_pool(&control, umem, target)?
        };
        control.fill = None;
        control.completion = None;
        control.bound = true;
        let fresh = self.link.set(link).is_ok();
        debug_assert!(fresh, "`bound` says whether there is one");
        drop(control);
        self.tell_bound(queue);
        Ok(())
    }

    fn bind_shared(&self, control: &Control, target: Target, fd: u32) -> Result<Link, Errno> {
        if target.flags & OWN_FLAGS != 0 || control.umem.is_some() {
            return Err(Errno::EINVAL);
        }
        // This socket is not bound, and its lock is held.
        let parent = self.host.socket(fd as i32).ok_or(Errno::ENOTSOCK)?;
        let with = parent.bound().map_err(|_| Errno::EBADF)?;
        let umem = with.pool.umem.clone();
        if (with.ifindex, with.queue) == (target.ifindex, target.queue) {
            if control.fill.is_some() || control.completion.is_some() {
                return Err(Errno::EINVAL);
            }
            return Ok(Link {
                device: target.device,
                ifindex: with.ifindex,
                queue: with.queue,
                pool: with.pool.clone(),
                sg: umem.sg.load(Relaxed),
                fill: with.fill.clone(),
                completion: with.completion.clone(),
            });
        }
        let inherited = if with.pool.uses_need_wakeup.load(Relaxed) { XDP_USE_NEED_WAKEUP } else { 0 };
        self.own_pool(control, umem, Target { flags: XDP_COPY | inherited, ..target })
    }

    /// A pool with rings of this socket's own, registered at its queue.
    fn own_pool(&self, control: &Control, umem: Arc<EngineUmem>, target: Target) -> Result<Link, Errno> {
        let (Some(fill), Some(completion)) = (&control.fill, &control.completion) else {
            return Err(Errno::EINVAL);
        };
        let Target { device, ifindex, queue, flags } = target;
        if flags & XDP_COPY != 0 && flags & XDP_ZEROCOPY != 0 {
            return Err(Errno::EINVAL);
        }
        let mut pools = locked(&self.host.pools);
        if pools.get(&(ifindex, queue)).is_some_and(|p: &Weak<Pool>| p.strong_count() > 0) {
            return Err(Errno::EBUSY);
        }
        let (rx, tx) = device.queues();
        if u32::from(queue) >= rx.max(tx) {
            return Err(Errno::EINVAL);
        }
        if flags & XDP_USE_SG != 0 {
            umem.sg.store(true, Relaxed);
        }
        if flags & XDP_ZEROCOPY != 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let pool = Arc::new(Pool::new(
            umem.clone(),
            fill_side(&fill.0, fill.1)?,
            completion_side(&completion.0, completion.1)?,
            flags & XDP_USE_NEED_WAKEUP != 0,
            self.host.sanitizer.clone().map(|to| (to, Watch::new((ifindex, queue), &umem))),
        ));
        pools.insert((ifindex, queue), Arc::downgrade(&pool));
        let sg = umem.sg.load(Relaxed);
        let (fill, completion) = (fill.0.clone(), completion.0.clone());
        Ok(Link { device, ifindex, queue, pool, sg, fill, completion })
    }
}
