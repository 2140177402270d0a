use std::sync::Arc;

use uapi::virtio_ring::vring_need_event;

use super::*;
use crate::SharedMem;

const DATA: usize = 64 * 1024;

fn queues(size: u16, features: RingFeatures) -> (DriverQueue<u32>, DeviceQueue, Arc<SharedMem>) {
    let memory = Arc::new(SharedMem::anonymous(256 * 1024).unwrap());
    let (layout, end) = QueueLayout::at(0, size);
    let tables = end.next_multiple_of(16);
    assert!(tables + DriverQueue::<u32>::tables_len(size) <= DATA);
    let driver = DriverQueue::new(memory.clone(), layout, tables, features).unwrap();
    let device = DeviceQueue::new(memory.clone(), layout, features).unwrap();
    (driver, device, memory)
}

const ALL: [RingFeatures; 4] = [
    RingFeatures { event_idx: false, indirect: false },
    RingFeatures { event_idx: true, indirect: false },
    RingFeatures { event_idx: false, indirect: true },
    RingFeatures { event_idx: true, indirect: true },
];

fn buffer(n: usize, len: u32) -> Buffer {
    Buffer { addr: (DATA + n * 256) as u64, len }
}

#[test]
fn chains_go_there_and_come_back_in_any_order() {
    for features in ALL {
        let (mut driver, mut device, memory) = queues(8, features);
        let mut chain = Chain::default();
        for round in 0..40_000_u32 {
            memory.view().copy_from(DATA, b"abcdef");
            driver.add(&[buffer(0, 3), Buffer { addr: DATA as u64 + 3, len: 3 }], &[], round).unwrap();
            driver.add(&[], &[buffer(1, 4), buffer(2, 4)], !round).unwrap();
            assert_eq!(driver.num_free(), if features.indirect { 6 } else { 4 });
            assert!(device.pop(&mut chain).unwrap());
            let mut bytes = [0; 10];
            assert_eq!((device.read(&chain, &mut bytes), &bytes[..6]), (6, &b"abcdef"[..]));
            let first = chain.clone();
            assert!(device.pop(&mut chain).unwrap());
            assert_eq!((chain.readable(), chain.writable(), chain.descriptors()), (0, 8, 2));
            assert_eq!(device.write(&chain, b"0123456789"), 8);
            device.push_used(&chain, 8);
            device.push_used(&first, 0);
            assert!(driver.get_buf().is_none(), "not shown yet");
            device.publish();
            assert_eq!(driver.get_buf(), Some((!round, 8)));
            assert_eq!(driver.get_buf(), Some((round, 0)));
            assert_eq!((driver.get_buf(), driver.num_free()), (None, 8));
            assert_eq!(memory.view().get(DATA + 512, 4).unwrap().to_vec(), b"4567");
        }
    }
}

#[test]
fn a_full_ring_refuses_and_gives_the_token_back() {
    let (mut driver, ..) = queues(4, ALL[0]);
    (0..4).for_each(|i| driver.add(&[buffer(0, 1)], &[], i).unwrap());
    assert_eq!(driver.add(&[buffer(0, 1)], &[], 9), Err((AddError::Full, 9)));
    assert_eq!(driver.add(&[], &[], 9), Err((AddError::Chain, 9)));
    let (mut driver, ..) = queues(4, ALL[2]);
    let many = [buffer(0, 1); CHAIN_MAX + 1];
    assert_eq!(driver.add(&many, &[], 9), Err((AddError::Chain, 9)));
    (0..4).for_each(|i| driver.add(&many[1..], &[], i).unwrap());
    assert_eq!(driver.add(&many[1..], &[], 9), Err((AddError::Full, 9)));
}

/// Virtio 1.3, 2.7.7 and 2.7.10: who wants to hear of what, with and without event index.
#[test]
fn notifications_and_interrupts_are_suppressed() {
    for features in ALL {
        let (mut driver, mut device, _) = queues(8, features);
        let mut chain = Chain::default();
        assert!(!device.enable_notify());
        driver.add(&[buffer(0, 1)], &[], 0).unwrap();
        assert!(driver.kick_prepare());
        device.disable_notify();
        driver.add(&[buffer(0, 1)], &[], 1).unwrap();
        assert!(!driver.kick_prepare(), "the device was told once and looks by itself");
        let mut first = Chain::default();
        assert!(device.pop(&mut first).unwrap() && device.pop(&mut chain).unwrap());
        device.push_used(&chain, 0);
        let armed = driver.enable_cb_prepare();
        assert!(!driver.poll(armed));
        assert!(device.publish());
        assert!(driver.poll(armed));
        driver.disable_cb();
        assert_eq!(driver.get_buf(), Some((1, 0)));
        device.push_used(&first, 0);
        assert!(!device.publish(), "{features:?}");
        assert!(!driver.enable_cb_delayed(), "all came back before it was asked for");
        assert_eq!(driver.get_buf(), Some((0, 0)));
        assert!(!device.enable_notify());
        driver.add(&[buffer(0, 1)], &[], 2).unwrap();
        assert!(driver.kick_prepare() && device.enable_notify());
    }
    assert!(vring_need_event(u16::MAX, 0, u16::MAX) && !vring_need_event(0, 0, u16::MAX));
}

/// Virtio 1.3, 2.7.8: an id that is not with the device breaks the queue, and only that.
#[test]
fn a_device_cannot_return_what_it_does_not_have() {
    for (id, twice) in [(8_u32, false), (u32::MAX, false), (1, false), (0x1_0000, false), (0, true)] {
        let (mut driver, _, memory) = queues(8, ALL[0]);
        driver.add(&[buffer(0, 1), buffer(1, 1)], &[], 7).unwrap();
        let (layout, _) = QueueLayout::at(0, 8);
        let used = |idx: u16, id: u32| {
            memory.view().write_u32(layout.used + 4 + 8 * usize::from(idx), id);
            memory.view().write_u16(layout.used + 2, idx + 1);
        };
        used(0, id);
        if twice {
            assert_eq!(driver.get_buf(), Some((7, 0)));
            used(1, id);
        }
        assert_eq!(driver.get_buf(), None);
        assert!(driver.is_broken());
        assert_eq!(driver.add(&[buffer(0, 1)], &[], 8), Err((AddError::Broken, 8)));
        assert!(driver.enable_cb_delayed() && !driver.poll(0), "nothing waits for a broken queue");
    }
}

#[test]
fn a_driver_cannot_lead_the_device_out_of_the_memory() {
    let bad = [
        Desc { addr: u64::MAX, len: 1, flags: 0, next: 0 },
        Desc { addr: 256 * 1024, len: 1, flags: 0, next: 0 },
        Desc { addr: 0, len: 16, flags: 1, next: 0 },
        Desc { addr: 0, len: 16, flags: 1, next: 8 },
        Desc { addr: 0, len: 17, flags: 4, next: 0 },
        Desc { addr: 0, len: 16, flags: 5, next: 0 },
        Desc { addr: u64::MAX - 15, len: 16, flags: 4, next: 0 },
        Desc { addr: 0, len: 0, flags: 4, next: 0 },
        // The table itself as a table: nested.
        Desc { addr: 0, len: 16, flags: 4, next: 0 },
    ];
    for desc in bad {
        let (_, mut device, memory) = queues(8, ALL[3]);
        let (layout, _) = QueueLayout::at(0, 8);
        desc.write(memory.view(), 0);
        memory.view().write_u16(layout.avail + 2, 1);
        let mut chain = Chain::default();
        assert_eq!(device.pop(&mut chain), Err(BadChain { head: 0 }), "{desc:?}");
        assert_eq!(device.pop(&mut chain), Ok(false));
        memory.view().write_u16(layout.avail + 2, 999);
        assert_eq!(device.available(), 0, "more than there can be");
    }
}

#[test]
fn a_layout_must_fit() {
    let (layout, end) = QueueLayout::at(100, 256);
    assert!(layout.fits(end) && !layout.fits(end - 1));
    assert!(!QueueLayout { size: 3, ..layout }.fits(end));
    assert!(!QueueLayout { desc: usize::MAX - 15, ..layout }.fits(end));
    assert!(!QueueLayout { used: layout.used + 1, ..layout }.fits(end + 16));
}

/// The two sides on two threads: each chain arrives once, with the bytes that were written before it was shown.
#[test]
fn two_threads_see_what_was_written_before() {
    const CHAINS: u32 = 50_000;
    for features in ALL {
        let (mut driver, mut device, memory) = queues(16, features);
        let echo = std::thread::spawn(move || {
            let (mut chain, mut seen) = (Chain::default(), 0);
            while seen < CHAINS {
                if !device.pop(&mut chain).unwrap() {
                    std::thread::yield_now();
                    continue;
                }
                let mut bytes = [0; 4];
                assert_eq!(device.read(&chain, &mut bytes), 4);
                assert_eq!(u32::from_le_bytes(bytes), seen);
                device.write(&chain, &(!seen).to_le_bytes());
                device.push_used(&chain, 4);
                device.publish();
                seen += 1;
            }
        });
        let (mut sent, mut back) = (0_u32, 0);
        while back < CHAINS {
            let slot = sent as usize % 8;
            let (out, into) = (buffer(2 * slot, 4), buffer(2 * slot + 1, 4));
            if sent < CHAINS && sent - back < 8 {
                memory.view().write_u32(out.addr as usize, sent);
                driver.add(&[out], &[into], sent).unwrap();
                sent += 1;
            }
            match driver.get_buf() {
                Some((token, len)) => {
                    let answer =
                        memory.view().read_u32(buffer(2 * (token as usize % 8) + 1, 4).addr as usize);
                    assert_eq!((token, len, answer), (back, 4, !back));
                    back += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        echo.join().unwrap();
    }
}
