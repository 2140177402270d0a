//! [`Events`]: what programs send to user space through ring buffers and perf event arrays.

use std::os::fd::{AsFd, AsRawFd};

use bpf::object::ObjectSpec;
use control::OutputEvent;
use uapi::bpf::MapType;

use crate::sys::{Map, Mapping, PerfBuffer, PerfRecord, Protection, page_size, possible_cpus};
use uapi::Errno;

/// Pages of each CPU's ring of a perf event array.
const PERF_PAGES: usize = 64;

/// Bits of a ring buffer record's length.
const BPF_RINGBUF_BUSY_BIT: u32 = 1 << 31;
const BPF_RINGBUF_DISCARD_BIT: u32 = 1 << 30;
const BPF_RINGBUF_HDR_SZ: u64 = 8;

/// The user side of all rings of an object.
#[derive(Debug, Default)]
pub(super) struct Events {
    rings: Vec<Ring>,
    perf: Vec<(usize, PerfBuffer)>,
}

/// The user side of a ring buffer.
#[derive(Debug)]
struct Ring {
    map: usize,
    size: usize,
    /// One page, in which we say how far we have read.
    consumer: Mapping,
    /// One page, in which the kernel says how far it has written, then the data twice in a row, so that
    /// every record lies in one piece.
    producer: Mapping,
}

impl Events {
    /// Opens every ring that an object has. One that cannot be opened costs a warning.
    pub(super) fn open(spec: &ObjectSpec, maps: &[Map], warnings: &mut Vec<String>) -> Self {
        let mut events = Self::default();
        for (index, (map_spec, map)) in spec.maps.iter().zip(maps).enumerate() {
            let opened = match map_spec.map_type {
                MapType::Ringbuf => Ring::open(index, map).map(|ring| events.rings.push(ring)),
                MapType::PerfEventArray => open_perf(map, map_spec.max_entries).map(|buffers| {
                    events.perf.extend(buffers.into_iter().map(|buffer| (index, buffer)));
                }),
                _ => Ok(()),
            };
            if let Err(errno) = opened {
                warnings.push(format!("events of map {} are not read: {errno}", map_spec.name));
            }
        }
        events
    }

    /// Takes out all that has arrived, in order per ring.
    pub(super) fn take(&mut self) -> Vec<OutputEvent> {
        let mut events = Vec::new();
        for ring in &self.rings {
            ring.drain(&mut events);
        }
        for (map, buffer) in &mut self.perf {
            let (map, cpu) = (*map, buffer.cpu());
            events.extend(buffer.drain().into_iter().map(|record| match record {
                PerfRecord::Sample(data) => OutputEvent::Perf { map, cpu, data },
                PerfRecord::Lost(count) => OutputEvent::Lost { map, cpu, count },
            }));
        }
        events
    }
}

impl Ring {
    fn open(map: usize, ring: &Map) -> Result<Self, Errno> {
        let (page, size) = (page_size(), ring.info()?.max_entries as usize);
        let consumer = Mapping::new(ring.as_fd(), 0, page, Protection::ReadWrite)?;
        let producer = Mapping::new(ring.as_fd(), page, page + 2 * size, Protection::Read)?;
        Ok(Self { map, size, consumer, producer })
    }

    fn drain(&self, events: &mut Vec<OutputEvent>) {
        let mut position = self.consumer.load_acquire_u64(0);
        let end = self.producer.load_acquire_u64(0);
        while position < end {
            let at = page_size() + (position as usize & (self.size - 1));
            let header = self.producer.load_acquire_u32(at);
            if header & BPF_RINGBUF_BUSY_BIT != 0 {
                break;
            }
            let len = header & !BPF_RINGBUF_DISCARD_BIT;
            if header & BPF_RINGBUF_DISCARD_BIT == 0 {
                let mut data = vec![0; len as usize];
                self.producer.copy_to(at + BPF_RINGBUF_HDR_SZ as usize, &mut data);
                events.push(OutputEvent::Ringbuf { map: self.map, data });
            }
            position += (u64::from(len) + BPF_RINGBUF_HDR_SZ).next_multiple_of(8);
            self.consumer.store_release_u64(0, position);
        }
    }
}

/// An event and its ring for every CPU that the array has room for and that is online.
fn open_perf(map: &Map, max_entries: u32) -> Result<Vec<PerfBuffer>, Errno> {
    let mut buffers = Vec::new();
    for cpu in 0..possible_cpus().min(max_entries) {
        let buffer = match PerfBuffer::open(cpu, PERF_PAGES) {
            Err(Errno::ENODEV) => continue,
            opened => opened?,
        };
        map.update(&cpu.to_le_bytes(), &buffer.as_fd().as_raw_fd().to_le_bytes(), 0)?;
        buffers.push(buffer);
    }
    Ok(buffers)
}
