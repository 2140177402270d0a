//! Maps of programs, maps, devices, CPUs and sockets.

use AttachType as At;
use MapType::*;
use uapi::bpf::*;

use super::*;

fn pair(first: u32, fd: i32) -> Vec<u8> {
    [first.to_le_bytes(), fd.to_le_bytes()].concat()
}

fn files() -> Files {
    let program = |fd, at, frags| (fd, program(fd as u32 + 100, at, frags));
    Files {
        programs: vec![
            program(10, At::Xdp, false),
            program(11, At::Devmap, false),
            program(12, At::Cpumap, false),
            program(13, At::Devmap, true),
            program(14, At::Xdp, true),
        ],
        sockets: vec![(20, Arc::new(1)), (21, Arc::new(2))],
        ..Files::default()
    }
}

#[test]
fn devmap() {
    let (files, fd) = (files(), open(Devmap, 4, 8, 4, 0));
    let update = |key, ifindex, prog, flags| fd.update_with(&files, &k(key), &pair(ifindex, prog), flags);
    assert_eq!(update(0, 1, 0, 0), Ok(()));
    assert_eq!(update(4, 1, 0, 0), Err(Errno::E2BIG));
    assert_eq!(update(1, 1, 0, BPF_NOEXIST), Err(Errno::EEXIST), "even if empty");
    assert_eq!(update(1, 1, 0, BPF_EXIST), Ok(()));
    assert_eq!(update(4, 1, 0, 4), Err(Errno::EINVAL));
    assert_eq!(update(1, 99_999, 0, 0), Err(Errno::EINVAL));
    assert_eq!(update(1, 0, 11, 0), Err(Errno::EINVAL));
    assert_eq!(update(1, 0, 0, 0), Ok(()), "ifindex 0 deletes");
    assert_eq!(fd.lookup_elem(&k(1), 0), Err(Errno::ENOENT));
    assert_eq!(update(1, 2, 11, 0), Ok(()));
    assert_eq!(fd.lookup_elem(&k(1), 0), Ok(pair(2, 111)), "read back is the program's id");
    assert_eq!(update(1, 1, 10, 0), Err(Errno::EINVAL));
    assert_eq!(update(1, 1, 12, 0), Err(Errno::EINVAL));
    assert_eq!(update(1, 1, 13, 0), Err(Errno::EINVAL), "frags unlike the first program's");
    assert_eq!(update(1, 1, 77, 0), Err(Errno::EINVAL));
    assert_eq!(update(1, 1, -1, 0), Ok(()));
    assert_eq!(fd.delete_elem(&k(3)), Ok(()));
    assert_eq!(fd.delete_elem(&k(4)), Err(Errno::EINVAL));
    assert_eq!(fd.get_next_key(Some(&k(99))), Ok(k(0).to_vec()));
    assert_eq!(fd.get_next_key(Some(&k(3))), Err(Errno::ENOENT));
    assert_ne!(fd.map().def().map_flags & BPF_F_RDONLY_PROG, 0);
    fd.map().remove_device(1);
    assert_eq!(fd.lookup_elem(&k(0), 0), Err(Errno::ENOENT));
    let short = open(Devmap, 4, 4, 4, 0);
    assert_eq!(short.update_with(&files, &k(0), &k(3), 0), Ok(()));
    assert_eq!(short.lookup_elem(&k(0), 0), Ok(k(3).to_vec()));
}

#[test]
fn devmap_hash() {
    let (files, fd) = (files(), open(DevmapHash, 4, 8, 2, 0));
    let update = |key, ifindex, prog, flags| fd.update_with(&files, &k(key), &pair(ifindex, prog), flags);
    assert_eq!(update(7, 1, 0, 0), Ok(()));
    assert_eq!(update(7, 1, 0, BPF_NOEXIST), Err(Errno::EEXIST));
    assert_eq!(update(8, 2, 0, BPF_EXIST), Ok(()), "inserts");
    assert_eq!(update(9, 1, 0, 0), Err(Errno::E2BIG));
    assert_eq!(update(7, 0, 0, 0), Err(Errno::EINVAL));
    assert_eq!(fd.delete_elem(&k(55)), Err(Errno::ENOENT));
    assert_eq!(fd.delete_elem(&k(7)), Ok(()));
    assert_eq!(update(10, 3, 0, 0), Ok(()));
    let guard = mem::epoch::pin();
    let order: Vec<u32> = fd.map().devices(&guard).map(|e| e.key).collect();
    assert_eq!(order, [10, 8], "the newest of a bucket first");
    assert_eq!(fd.get_next_key(None), Ok(k(10).to_vec()));
    assert_eq!(fd.get_next_key(Some(&k(10))), Ok(k(8).to_vec()));
    assert_eq!(fd.get_next_key(Some(&k(8))), Err(Errno::ENOENT));
    fd.map().remove_device(3);
    assert!(!fd.map().has_target(&guard, 10) && fd.map().has_target(&guard, 8));
    assert_eq!(update(11, 1, 0, 0), Ok(()));
}

#[test]
fn cpumap() {
    let (files, fd) = (files(), open(Cpumap, 4, 8, 4, 0));
    let update = |cpu, qsize, prog, flags| fd.update_with(&files, &k(cpu), &pair(qsize, prog), flags);
    assert_eq!(update(0, 192, 0, 0), Ok(()));
    assert_eq!(update(0, 16384, 0, 0), Ok(()));
    assert_eq!(update(0, 16385, 0, 0), Err(Errno::EOVERFLOW));
    assert_eq!(update(2, 192, 0, 0), Err(Errno::ENODEV), "there are two CPUs");
    assert_eq!(update(4, 192, 0, 0), Err(Errno::E2BIG));
    assert_eq!(update(0, 192, 0, BPF_NOEXIST), Err(Errno::EEXIST));
    assert_eq!(update(1, 192, 0, BPF_EXIST), Ok(()));
    assert_eq!(update(1, 192, 0, 4), Err(Errno::EINVAL));
    assert_eq!(update(1, 0, 0, 0), Ok(()), "no queue deletes");
    assert_eq!(fd.lookup_elem(&k(1), 0), Err(Errno::ENOENT));
    assert_eq!(update(0, 192, 12, 0), Ok(()));
    assert_eq!(fd.lookup_elem(&k(0), 0), Ok(pair(192, 112)));
    for wrong in [10, 11, 12345] {
        assert_eq!(update(0, 192, wrong, 0), Err(Errno::ENOMEM), "as the kernel says it");
    }
    assert_eq!(fd.delete_elem(&k(1)), Ok(()));
    assert_eq!(fd.delete_elem(&k(9)), Err(Errno::EINVAL));
    assert!(fd.map().has_target(&mem::epoch::pin(), 0));
}

#[test]
fn xskmap() {
    let (files, fd) = (files(), open(Xskmap, 4, 4, 4, 0));
    let update = |key, socket: i32, flags| fd.update_with(&files, &k(key), &k(socket as u32), flags);
    assert_eq!(update(0, 20, 0), Ok(()));
    assert_eq!(update(0, 20, BPF_NOEXIST), Ok(()), "the same socket");
    assert_eq!(update(0, 21, BPF_NOEXIST), Err(Errno::EEXIST));
    assert_eq!(update(1, 21, BPF_EXIST), Err(Errno::ENOENT));
    assert_eq!(update(1, 99, 0), Err(Errno::EBADF));
    assert_eq!(update(4, 20, 0), Err(Errno::E2BIG));
    assert_eq!(update(1, 20, 4), Err(Errno::EINVAL));
    assert_eq!(fd.lookup_elem(&k(0), 0), Err(Errno::EOPNOTSUPP));
    assert_eq!(fd.delete_elem(&k(3)), Ok(()));
    assert_eq!(fd.delete_elem(&k(4)), Err(Errno::EINVAL));
    assert_eq!(update(2, 21, 0), Ok(()));
    fd.map().remove_socket(&files.sockets[0].1);
    let guard = mem::epoch::pin();
    assert!(!fd.map().has_target(&guard, 0) && fd.map().has_target(&guard, 2));
}

#[test]
fn programs_see_the_queue_of_a_socket() {
    let socket = Arc::new(SocketObject::new(Box::new(())));
    let files = Files { sockets: vec![(20, socket.clone())], ..Files::default() };
    let fd = open(Xskmap, 4, 4, 4, 0);
    assert_eq!(fd.update_with(&files, &k(1), &k(20), 0), Ok(()));
    let guard = mem::epoch::pin();
    let seen = |key| fd.map().lookup(&guard, 0, &k(key)).map(|value| value.read_u32(0));
    assert_eq!((seen(0), seen(1)), (None, Some(0)), "not bound yet");
    socket.set_queue_id(7);
    assert_eq!((seen(1), seen(4)), (Some(7), None));
}

#[test]
fn prog_array() {
    let (files, fd) = (files(), open(ProgArray, 4, 4, 4, 0));
    let update = |slot, prog: i32, flags| fd.update_with(&files, &k(slot), &k(prog as u32), flags);
    assert_eq!(update(0, 10, 0), Ok(()));
    assert_eq!(update(1, 14, 0), Err(Errno::EINVAL), "frags");
    assert_eq!(update(1, 11, 0), Err(Errno::EINVAL), "attach type");
    assert_eq!(update(1, 10, BPF_NOEXIST), Err(Errno::EINVAL));
    assert_eq!(update(4, 10, 0), Err(Errno::E2BIG));
    assert_eq!(update(1, 77, 0), Err(Errno::EBADF));
    assert_eq!(fd.lookup_elem(&k(0), 0), Ok(k(110).to_vec()));
    assert_eq!(fd.lookup_elem(&k(1), 0), Err(Errno::ENOENT));
    assert_eq!(fd.delete_elem(&k(1)), Err(Errno::ENOENT));
    assert_eq!(fd.delete_elem(&k(4)), Err(Errno::E2BIG));
    let guard = mem::epoch::pin();
    assert_eq!(fd.map().program(&guard, 0).map(|p| p.id()), Some(110));
    // The last handle of user space takes the programs with it, so that programs and arrays that name
    // each other go away.
    let (map, other) = (fd.map().clone(), fd.clone());
    drop(fd);
    assert!(map.program(&guard, 0).is_some());
    drop(other);
    assert!(map.program(&guard, 0).is_none() && !map.has_user_ref());
}

fn outer(map_type: MapType, inner: &MapDef) -> Result<Arc<Map>, Errno> {
    let inner = Some(Box::new(inner.clone()));
    try_create(MapDef { inner, ..MapDef::new(map_type, 4, 4, 2) })
}

#[test]
fn maps_of_maps() {
    let template = MapDef::new(Array, 4, 8, 4);
    let new = |def: MapDef, id| Map::create(def, &MapContext { id, ..cx(2) }).unwrap();
    let files = Files {
        maps: vec![
            (1, new(template.clone(), 31)),
            (2, new(MapDef::new(Array, 4, 8, 8), 32)),
            (3, new(MapDef::new(Hash, 4, 8, 4), 33)),
            (4, new(template.clone(), 34)),
        ],
        ..Files::default()
    };
    for t in [ArrayOfMaps, HashOfMaps] {
        let fd = outer(t, &template).unwrap().open();
        let update = |key, map: i32, flags| fd.update_with(&files, &k(key), &k(map as u32), flags);
        assert_eq!(update(0, 1, 0), Ok(()));
        assert_eq!(update(1, 2, 0), Err(Errno::EINVAL), "max_entries");
        assert_eq!(update(1, 3, 0), Err(Errno::EINVAL), "type");
        assert_eq!(update(1, 9, 0), Err(Errno::EBADF));
        let noexist = if t == ArrayOfMaps { Errno::EINVAL } else { Errno::EEXIST };
        assert_eq!(update(0, 1, BPF_NOEXIST), Err(noexist));
        assert_eq!(fd.lookup_elem(&k(0), 0), Ok(k(31).to_vec()), "user space reads the id");
        assert_eq!(fd.lookup_elem(&k(1), 0), Err(Errno::ENOENT));
        assert_eq!(fd.delete_elem(&k(1)), Err(Errno::ENOENT));
        assert_eq!(update(0, 4, 0), Ok(()));
        let guard = mem::epoch::pin();
        let inner = fd.map().inner(&guard, &k(0)).unwrap();
        assert_eq!(inner.id(), 34);
        assert_eq!(fd.delete_elem(&k(0)), Ok(()));
        assert!(fd.map().inner(&guard, &k(0)).is_none());
        assert!(inner.lookup(&guard, 0, &k(3)).is_some(), "who found it keeps it");
    }
    for (def, expected) in [
        (MapDef::new(ProgArray, 4, 4, 4), Err(Errno::ENOTSUPP)),
        (MapDef::new(Devmap, 4, 4, 4), Ok(())),
        (MapDef::new(Xskmap, 4, 4, 4), Ok(())),
        (MapDef::new(Cpumap, 4, 4, 2), Ok(())),
        (MapDef::new(Array, 4, 0, 2), Err(Errno::EINVAL)),
        (MapDef::new(ArrayOfMaps, 4, 4, 2), Err(Errno::EINVAL)),
    ] {
        assert_eq!(outer(HashOfMaps, &def).map(|_| ()), expected, "{:?}", def.map_type);
    }
    let devmap = MapDef::new(Devmap, 4, 4, 4);
    let files = Files { maps: vec![(1, new(devmap.clone(), 40))], ..Files::default() };
    let fd = outer(ArrayOfMaps, &devmap).unwrap().open();
    assert_eq!(fd.update_with(&files, &k(0), &k(1), 0), Ok(()));
}
