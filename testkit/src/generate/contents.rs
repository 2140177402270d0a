//! Contents of maps: updates and deletes with keys and values that their types suggest.

use bpf::btf::{Btf, Kind, TypeId};
use bpf::object::{MapSpec, ObjectSpec};
use uapi::bpf::{BPF_F_RDONLY, MapType};

use super::Rng;
use super::packet::{PORTS, VIDS, ipv4, ipv6};

/// Depth of types that are followed.
const DEPTH_MAX: u32 = 16;

/// One command of user space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapChange {
    /// `BPF_MAP_UPDATE_ELEM`.
    Update {
        /// Position in the object.
        map: usize,
        /// Key.
        key: Vec<u8>,
        /// Value; one for each CPU where the type wants that.
        value: Vec<u8>,
        /// `BPF_ANY` and so on.
        flags: u64,
    },
    /// `BPF_MAP_DELETE_ELEM`.
    Delete {
        /// Position in the object.
        map: usize,
        /// Key.
        key: Vec<u8>,
    },
}

/// About `count` changes of the maps of an object. Maps whose values name something outside (devices, CPUs,
/// sockets, programs, maps) are left alone.
pub fn changes(rng: &mut Rng, spec: &ObjectSpec, cpus: u32, count: usize) -> Vec<MapChange> {
    let changeable: Vec<usize> = (0..spec.maps.len()).filter(|&i| is_changeable(&spec.maps[i])).collect();
    if changeable.is_empty() {
        return Vec::new();
    }
    (0..count)
        .map(|_| {
            let map = rng.pick(&changeable);
            let m = &spec.maps[map];
            let btf = spec.btf.as_deref();
            let mut key = typed(rng, btf, m.key_type, m.key_size as usize, m);
            if m.map_type == MapType::LpmTrie {
                limit_prefix(rng, &mut key);
            }
            if rng.one_in(8) {
                return MapChange::Delete { map, key };
            }
            let one = |rng: &mut Rng| typed(rng, btf, m.value_type, m.value_size as usize, m);
            let mut value = one(rng);
            if is_per_cpu(m.map_type) {
                value.resize(value.len().next_multiple_of(8), 0);
                value = (0..cpus).flat_map(|_| value.clone()).collect();
            }
            let flags = if rng.one_in(6) { rng.below(5) } else { 0 };
            MapChange::Update { map, key, value, flags }
        })
        .collect()
}

fn is_changeable(map: &MapSpec) -> bool {
    use MapType::*;
    let plain = matches!(
        map.map_type,
        Hash | Array
            | PercpuHash
            | PercpuArray
            | LruHash
            | LruPercpuHash
            | LpmTrie
            | Queue
            | Stack
            | BloomFilter
    );
    plain && !map.frozen && map.map_flags & BPF_F_RDONLY == 0 && map.value_size <= 4096
}

fn is_per_cpu(map_type: MapType) -> bool {
    matches!(map_type, MapType::PercpuHash | MapType::PercpuArray | MapType::LruPercpuHash)
}

/// Bytes of a type; random ones where the type is unknown.
fn typed(rng: &mut Rng, btf: Option<&Btf>, ty: Option<TypeId>, len: usize, map: &MapSpec) -> Vec<u8> {
    let mut bytes = vec![0; len];
    match (btf, ty) {
        (Some(btf), Some(ty)) => {
            fill(rng, btf, ty, map, &mut bytes, DEPTH_MAX);
        }
        _ => number(rng, map, &mut bytes),
    }
    bytes
}

/// Fills the bytes of a type. Special fields (locks, timers) stay zero: their structs have nothing but
/// opaque members, which the kernel does not copy.
fn fill(rng: &mut Rng, btf: &Btf, ty: TypeId, map: &MapSpec, bytes: &mut [u8], depth: u32) {
    let ty = btf.resolve(ty);
    if depth == 0 || btf.name_of(ty).starts_with("bpf_") {
        return;
    }
    match &btf.ty(ty).kind {
        Kind::Struct { members, .. } => {
            for m in members.iter().filter(|m| m.bitfield_bits == 0) {
                let start = m.bit_offset as usize / 8;
                let len = btf.size_of(m.ty).unwrap_or(0) as usize;
                if let Some(part) = bytes.get_mut(start..start + len) {
                    fill(rng, btf, m.ty, map, part, depth - 1);
                }
            }
        }
        Kind::Array { elem, len, .. } => {
            let size = btf.size_of(*elem).unwrap_or(0) as usize;
            if size == 4 && *len == 4 {
                bytes.copy_from_slice(&mapped_address(rng));
            } else if size > 0 {
                bytes.chunks_exact_mut(size).for_each(|part| fill(rng, btf, *elem, map, part, depth - 1));
            }
        }
        Kind::Datasec { vars, .. } => {
            for v in vars {
                let Kind::Var { ty, .. } = btf.ty(v.ty).kind else { continue };
                if let Some(part) = bytes.get_mut(v.offset as usize..(v.offset + v.size) as usize) {
                    fill(rng, btf, ty, map, part, depth - 1);
                }
            }
        }
        _ => number(rng, map, bytes),
    }
}

/// Four words that may be an IPv6 address, or an IPv4 address mapped into one.
fn mapped_address(rng: &mut Rng) -> [u8; 16] {
    if rng.one_in(3) {
        return ipv6(rng);
    }
    let mut address = [0; 16];
    address[10..12].fill(0xff);
    address[12..].copy_from_slice(&ipv4(rng));
    address
}

/// A number of so many bytes: a key that exists, an address, a port, a protocol, or anything.
fn number(rng: &mut Rng, map: &MapSpec, bytes: &mut [u8]) {
    let choice = rng.below(4);
    match bytes.len() {
        1 => bytes[0] = rng.pick(&[0, 1, 4, 6, 17, 58, 64, 255]),
        2 if choice == 0 => bytes.copy_from_slice(&rng.pick(VIDS).to_le_bytes()),
        2 if choice == 1 => bytes.fill(0),
        2 => bytes.copy_from_slice(&rng.pick(PORTS).to_be_bytes()),
        4 if choice == 0 => bytes.copy_from_slice(&ipv4(rng)),
        4 => {
            let near_end = u64::from(map.max_entries) + 2;
            let value = if choice == 1 { rng.below(near_end.min(64)) } else { rng.odd_number() };
            bytes.copy_from_slice(&(value as u32).to_le_bytes());
        }
        8 => bytes.copy_from_slice(&rng.odd_number().to_le_bytes()),
        len => bytes.copy_from_slice(&rng.bytes(len)),
    }
}

/// Makes the first word of a trie's key a prefix length that its data can have, or just not.
fn limit_prefix(rng: &mut Rng, key: &mut [u8]) {
    if let Some((prefix, data)) = key.split_first_chunk_mut() {
        let bits = 8 * data.len() as u64;
        let len = if rng.one_in(40) { bits + 1 } else { rng.below(bits + 1) };
        *prefix = (len as u32).to_le_bytes();
    }
}
