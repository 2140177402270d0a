//! Options, memory, bind(2), mmap(2).

use uapi::Errno;
use uapi::if_xdp::*;

use crate::lab::Lab;
use crate::on_all_homes;
use crate::raw::{Spec, Xsk, addr, anon, set};

on_all_homes! {
    sockets_are_raw_and_have_no_protocol,
    ring_sizes_are_powers_of_two_set_once,
    the_tx_budget_is_from_32_to_the_ring,
    answers_are_as_long_as_their_versions,
    memory_is_checked_in_order,
    binding_is_checked_in_order,
    sharing_is_checked_in_order,
    a_queue_is_taken_until_its_rings_are_unmapped,
    rings_are_mapped_at_their_offsets,
    a_removed_device_unbinds_its_sockets,
    flags_start_as_they_stay_in_copy_mode,
}

const EINVAL: Result<(), Errno> = Err(Errno::EINVAL);

fn sockets_are_raw_and_have_no_protocol(lab: &dyn Lab) {
    let open = |kind, protocol| lab.home().socket(kind, protocol).map(drop);
    assert_eq!(open(3, 0), Ok(()));
    assert_eq!(open(2, 0), Err(Errno::ESOCKTNOSUPPORT));
    assert_eq!(open(1, 1), Err(Errno::ESOCKTNOSUPPORT));
    assert_eq!(open(3, 1), Err(Errno::EPROTONOSUPPORT));
}

fn ring_sizes_are_powers_of_two_set_once(lab: &dyn Lab) {
    let raw = lab.home().open().unwrap();
    for name in [XDP_RX_RING, XDP_TX_RING, XDP_UMEM_FILL_RING, XDP_UMEM_COMPLETION_RING] {
        assert_eq!(raw.setsockopt(SOL_XDP, name, &[1, 0]), EINVAL, "too short");
        for entries in [0, 3, -8_i32 as u32] {
            assert_eq!(set(&*raw, name, entries), EINVAL, "{entries} entries");
        }
        let longer = [8, 0, 0, 0, 99, 99];
        assert_eq!(raw.setsockopt(SOL_XDP, name, &longer), Ok(()), "what comes after does not matter");
        assert_eq!(set(&*raw, name, 8), EINVAL, "again");
    }
    assert_eq!(set(&*raw, 99, 1), Err(Errno::ENOPROTOOPT));
    assert_eq!(set(&*raw, XDP_STATISTICS, 1), Err(Errno::ENOPROTOOPT));
    assert_eq!(raw.setsockopt(0, XDP_RX_RING, &[8, 0, 0, 0]), Err(Errno::ENOPROTOOPT), "level");
    assert_eq!(set(&*lab.home().open().unwrap(), XDP_RX_RING, 1), Ok(()));
    let bound = Xsk::new(lab, &Spec { tx: 0, ..Spec::default() });
    assert_eq!(set(&*bound.raw, XDP_TX_RING, 8), Err(Errno::EBUSY));
    assert_eq!(set(&*bound.raw, XDP_UMEM_FILL_RING, 0), Err(Errno::EBUSY), "before the size is looked at");
}

fn the_tx_budget_is_from_32_to_the_ring(lab: &dyn Lab) {
    let raw = lab.home().open().unwrap();
    assert_eq!(set(&*raw, XDP_MAX_TX_SKB_BUDGET, 64), Err(Errno::EACCES), "no ring");
    set(&*raw, XDP_TX_RING, 128).unwrap();
    for (budget, expected) in
        [(31, Err(Errno::EACCES)), (32, Ok(())), (128, Ok(())), (129, Err(Errno::EACCES))]
    {
        assert_eq!(set(&*raw, XDP_MAX_TX_SKB_BUDGET, budget), expected, "{budget}");
    }
    assert_eq!(raw.setsockopt(SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &[64, 0, 0, 0, 0, 0, 0, 0]), EINVAL);
    let bound = Xsk::new(lab, &Spec { tx: 64, ..Spec::default() });
    assert_eq!(set(&*bound.raw, XDP_MAX_TX_SKB_BUDGET, 64), Ok(()), "at any time");
}

fn answers_are_as_long_as_their_versions(lab: &dyn Lab) {
    let xsk = Xsk::new(lab, &Spec::default());
    let get = |name, len: usize| {
        let mut value = vec![0xee; len];
        xsk.raw.getsockopt(SOL_XDP, name, &mut value).map(|n| value[..n].to_vec())
    };
    let ring = |words: usize| {
        [0_u64, 128, 320, 196][..words].iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<_>>().repeat(4)
    };
    assert_eq!(get(XDP_MMAP_OFFSETS, 200), Ok(ring(4)));
    assert_eq!(get(XDP_MMAP_OFFSETS, 128), Ok(ring(4)));
    assert_eq!(get(XDP_MMAP_OFFSETS, 127), Ok(ring(3)));
    assert_eq!(get(XDP_MMAP_OFFSETS, 96), Ok(ring(3)));
    assert_eq!(get(XDP_MMAP_OFFSETS, 95), Err(Errno::EINVAL));
    for (len, expected) in [(64, Ok(48)), (48, Ok(48)), (40, Ok(24)), (24, Ok(24)), (23, Err(Errno::EINVAL))]
    {
        assert_eq!(get(XDP_STATISTICS, len).map(|v| v.len()), expected, "{len} bytes");
    }
    assert_eq!(get(XDP_OPTIONS, 4), Ok(vec![0; 4]));
    assert_eq!(get(XDP_OPTIONS, 3), Err(Errno::EINVAL));
    for name in [99, XDP_UMEM_REG, XDP_RX_RING] {
        assert_eq!(get(name, 32), Err(Errno::EOPNOTSUPP), "{name}");
    }
}

fn memory_is_checked_in_order(lab: &dyn Lab) {
    let memory = anon(1 << 20);
    let ok = XdpUmemReg { addr: memory.addr(), len: 65536, chunk_size: 4096, ..XdpUmemReg::default() };
    let register = |reg: XdpUmemReg| lab.home().open().unwrap().register_umem(&memory, &reg.to_bytes());
    let unaligned = XdpUmemReg { flags: XDP_UMEM_UNALIGNED_CHUNK_FLAG, ..ok };
    let with_meta = |len| XdpUmemReg { flags: XDP_UMEM_TX_METADATA_LEN, tx_metadata_len: len, ..ok };
    for chunk_size in [1024, 2047, 2049, 3000, 4097, 8192, 0, u32::MAX] {
        assert_eq!(register(XdpUmemReg { chunk_size, ..ok }), EINVAL, "chunks of {chunk_size}");
    }
    for chunk_size in [1024, 2047, 4097] {
        assert_eq!(register(XdpUmemReg { chunk_size, ..unaligned }), EINVAL, "unaligned, {chunk_size}");
    }
    let good = [
        ok,
        XdpUmemReg { chunk_size: 2048, ..ok },
        XdpUmemReg { chunk_size: 3000, ..unaligned },
        XdpUmemReg { len: 6144, chunk_size: 2048, ..ok },
        XdpUmemReg { len: 6144, ..unaligned },
        XdpUmemReg { headroom: 4096 - 704, ..ok },
        XdpUmemReg { headroom: 2048 - 704, chunk_size: 2048, ..ok },
        XdpUmemReg { flags: XDP_UMEM_TX_SW_CSUM, ..ok },
        with_meta(0),
        with_meta(16),
        with_meta(248),
        XdpUmemReg { tx_metadata_len: 13, ..ok },
    ];
    for reg in good {
        assert_eq!(register(reg), Ok(()), "{reg:?}");
    }
    let bad = [
        XdpUmemReg { addr: ok.addr + 1, ..ok },
        XdpUmemReg { addr: ok.addr + 2048, ..ok },
        XdpUmemReg { len: 0, ..ok },
        XdpUmemReg { len: 4095, ..ok },
        XdpUmemReg { len: 6144, ..ok },
        XdpUmemReg { headroom: 4096 - 703, ..ok },
        XdpUmemReg { headroom: u32::MAX, ..ok },
        XdpUmemReg { flags: 8, ..ok },
        with_meta(12),
        with_meta(256),
    ];
    for reg in bad {
        assert_eq!(register(reg), EINVAL, "{reg:?}");
    }
    let raw = lab.home().open().unwrap();
    assert_eq!(raw.register_umem(&memory, &ok.to_bytes()[..23]), EINVAL);
    assert_eq!(
        raw.register_umem(&memory, &with_meta(13).to_bytes()[..31]),
        Ok(()),
        "the first version has no flags"
    );
    assert_eq!(raw.register_umem(&memory, &ok.to_bytes()), Err(Errno::EBUSY));
}

/// A socket with what is told, not bound.
fn parts(lab: &dyn Lab, rings: bool, umem: bool, queues: bool) -> Xsk {
    let spec = Spec {
        rx: if rings { 8 } else { 0 },
        tx: if rings { 8 } else { 0 },
        fill: if queues { 8 } else { 0 },
        completion: if queues { 8 } else { 0 },
        ..Spec::default()
    };
    let lender = (!umem).then(|| Xsk::unbound(lab, &Spec::default(), None));
    Xsk::unbound(lab, &spec, lender.as_ref())
}

/// Tries again for a while if the queue is taken.
fn retried(bind: impl Fn() -> Result<(), Errno>) -> Result<(), Errno> {
    for _ in 0..20 {
        match bind() {
            Err(Errno::EBUSY) => std::thread::sleep(std::time::Duration::from_millis(10)),
            result => return result,
        }
    }
    Err(Errno::EBUSY)
}

fn binding_is_checked_in_order(lab: &dyn Lab) {
    let here = lab.here();
    let whole = || parts(lab, true, true, true);
    // The kernel lets go of a queue a little after its socket was closed.
    let bind = |xsk: Xsk, addr: &[u8]| retried(|| xsk.raw.bind(addr));
    assert_eq!(bind(whole(), &addr(0, here, 0, 0)[..15]), EINVAL);
    let long: Vec<u8> = addr(0, here, 0, 0).into_iter().chain([7; 16]).collect();
    assert_eq!(bind(whole(), &long), Ok(()));
    let mut inet = addr(0, here, 0, 0);
    inet[0] = 2;
    assert_eq!(bind(whole(), &inet), EINVAL, "family");
    assert_eq!(bind(whole(), &addr(32, 999, 0, 0)), EINVAL, "flags before the device");
    assert_eq!(bind(whole(), &addr(0, 999, 0, 0)), Err(Errno::ENODEV));
    assert_eq!(bind(parts(lab, false, true, true), &addr(0, 999, 0, 0)), Err(Errno::ENODEV), "before rings");
    assert_eq!(bind(parts(lab, false, true, true), &addr(0, here, 0, 0)), EINVAL, "no rings");
    assert_eq!(bind(parts(lab, true, false, true), &addr(0, here, 0, 0)), EINVAL, "no memory");
    assert_eq!(bind(parts(lab, true, true, false), &addr(0, here, 0, 0)), EINVAL, "no fill ring");
    assert_eq!(bind(whole(), &addr(XDP_COPY | XDP_ZEROCOPY, here, 0, 0)), EINVAL);
    assert_eq!(bind(whole(), &addr(XDP_ZEROCOPY, here, 0, 0)), Err(Errno::EOPNOTSUPP));
    assert_eq!(bind(whole(), &addr(0, here, 2, 0)), EINVAL, "a queue that there is not");
    assert_eq!(bind(whole(), &addr(0, here, 70000, 0)), EINVAL);
    assert_eq!(bind(whole(), &addr(0, here, 65537, 0)), Ok(()), "16 bits of the queue count");
    for flags in [0, XDP_COPY, XDP_USE_NEED_WAKEUP, XDP_USE_SG, XDP_USE_SG | XDP_COPY] {
        assert_eq!(bind(whole(), &addr(flags, here, 1, 0)), Ok(()), "{flags}");
    }
    let first = whole();
    assert_eq!(first.raw.bind(&addr(0, here, 0, 0)), Ok(()));
    assert_eq!(first.raw.bind(&addr(0, here, 0, 0)), Err(Errno::EBUSY), "bound");
    assert_eq!(first.raw.bind(&addr(0, 999, 0, 0)), Err(Errno::EBUSY), "before the device");
    assert_eq!(bind(whole(), &addr(0, here, 0, 0)), Err(Errno::EBUSY), "the queue is taken");
    assert_eq!(bind(whole(), &addr(0, here, 65536, 0)), Err(Errno::EBUSY), "queue 0 again");
    assert_eq!(bind(whole(), &addr(0, lab.there(), 0, 0)), Ok(()));
}

fn sharing_is_checked_in_order(lab: &dyn Lab) {
    let here = lab.here();
    let parent = Xsk::new(lab, &Spec::default());
    let share = |own_queues: bool, flags, ifindex, queue, with: i32| {
        let child = parts(lab, true, false, own_queues);
        let result = child.raw.bind(&addr(XDP_SHARED_UMEM | flags, ifindex, queue, with));
        result.map(|()| child)
    };
    let errno = |result: Result<Xsk, Errno>| result.map(drop).unwrap_err();
    for flags in [XDP_COPY, XDP_ZEROCOPY, XDP_USE_NEED_WAKEUP, XDP_USE_SG] {
        assert_eq!(errno(share(false, flags, here, 0, 9999)), Errno::EINVAL, "flags are the parent's");
    }
    let own = parts(lab, true, true, false);
    assert_eq!(own.raw.bind(&addr(XDP_SHARED_UMEM, here, 0, 9999)), EINVAL, "memory of its own");
    assert_eq!(errno(share(false, 0, here, 0, 9999)), Errno::ENOTSOCK);
    let unbound = lab.home().open().unwrap();
    assert_eq!(errno(share(false, 0, here, 0, unbound.number())), Errno::EBADF);
    assert_eq!(errno(share(true, 0, here, 0, parent.number())), Errno::EINVAL, "the queue has rings");
    assert_eq!(errno(share(false, 0, here, 1, parent.number())), Errno::EINVAL, "another queue needs rings");
    assert_eq!(errno(share(false, 0, lab.there(), 0, parent.number())), Errno::EINVAL);
    assert_eq!(errno(share(true, 0, here, 9, parent.number())), Errno::EINVAL, "no such queue");
    let child = share(false, 0, here, 0, parent.number()).unwrap();
    let _other_queue = share(true, 0, here, 1, parent.number()).unwrap();
    let _other_device = share(true, 0, lab.there(), 0, parent.number()).unwrap();
    assert_eq!(errno(share(true, 0, lab.there(), 0, parent.number())), Errno::EBUSY);
    let _grandchild = share(false, 0, here, 0, child.number()).unwrap();
    assert!(child.raw.mmap(XDP_UMEM_PGOFF_FILL_RING, 4096).is_ok(), "the parent's ring");
    drop(parent);
    assert_eq!(child.kick(), Ok(()), "outlives its parent");
}

fn a_queue_is_taken_until_its_rings_are_unmapped(lab: &dyn Lab) {
    let Xsk { raw, rx, .. } = Xsk::new(lab, &Spec::default());
    let again = || parts(lab, true, true, true).raw.bind(&addr(0, lab.here(), 0, 0));
    drop(raw);
    assert_eq!(again(), Err(Errno::EBUSY), "one ring is still mapped");
    drop(rx);
    // The kernel lets go of it a little later.
    assert_eq!(retried(again), Ok(()));
}

fn rings_are_mapped_at_their_offsets(lab: &dyn Lab) {
    let raw = lab.home().open().unwrap();
    let map = |offset, len| raw.mmap(offset, len).map(drop);
    let offsets =
        [XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_FILL_RING, XDP_UMEM_PGOFF_COMPLETION_RING];
    for offset in offsets {
        assert_eq!(map(offset, 4096), EINVAL, "no ring");
    }
    set(&*raw, XDP_RX_RING, 8).unwrap();
    assert_eq!(map(XDP_PGOFF_RX_RING, 4096), Ok(()));
    assert_eq!(map(XDP_PGOFF_RX_RING, 8192), EINVAL, "longer than the ring");
    assert_eq!(map(0x1000, 4096), EINVAL);
    assert_eq!(map(XDP_PGOFF_TX_RING, 4096), EINVAL);
    set(&*raw, XDP_UMEM_COMPLETION_RING, 1024).unwrap();
    assert_eq!(map(XDP_UMEM_PGOFF_COMPLETION_RING, 320 + 8192), Ok(()));
    assert_eq!(map(XDP_UMEM_PGOFF_COMPLETION_RING, 4096), Ok(()), "a part");
}

fn a_removed_device_unbinds_its_sockets(lab: &dyn Lab) {
    let xsk = Xsk::new(lab, &Spec::default());
    lab.remove_here();
    assert_eq!(xsk.poll(), 0);
    assert_eq!(xsk.kick(), Err(Errno::ENXIO));
    assert_eq!(xsk.raw.recv(false), Err(Errno::ENXIO));
    let so_error = || {
        let mut value = [0; 4];
        xsk.raw.getsockopt(1, 4, &mut value).map(|_| i32::from_le_bytes(value))
    };
    assert_eq!(so_error(), Ok(Errno::ENETDOWN.raw()));
    assert_eq!(so_error(), Ok(0), "told once");
    assert_eq!(xsk.raw.bind(&addr(0, lab.there(), 0, 0)), Err(Errno::EBUSY));
    assert_eq!(xsk.raw.mmap(XDP_PGOFF_RX_RING, 4096).map(drop), Err(Errno::EBUSY));
    assert_eq!(lab.redirect(0, xsk.number()), Ok(()), "the map still takes it");
}

fn flags_start_as_they_stay_in_copy_mode(lab: &dyn Lab) {
    for flags in [XDP_COPY, XDP_COPY | XDP_USE_NEED_WAKEUP] {
        let xsk = Xsk::new(
            lab,
            &Spec { flags, queue: u32::from(flags & XDP_USE_NEED_WAKEUP != 0), ..Spec::default() },
        );
        assert!(!xsk.fill.as_ref().unwrap().needs_wakeup());
        assert!(xsk.tx.as_ref().unwrap().needs_wakeup());
        assert_eq!(xsk.stats(), XdpStatistics::default());
        assert_eq!(xsk.poll(), 4, "room to send");
        assert_eq!(xsk.stats().tx_ring_empty_descs, 1, "poll looked into the TX ring");
    }
}
