use std::io::Cursor;

use super::*;

fn pcap(magic: u32, big_endian: bool, link: u32, packets: &[(u32, u32, &[u8])]) -> Vec<u8> {
    let u32s = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let u16s = |v: u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
    let mut b = Vec::new();
    b.extend(u32s(magic));
    b.extend(u16s(2));
    b.extend(u16s(4));
    b.extend(u32s(0));
    b.extend(u32s(0));
    b.extend(u32s(65535));
    b.extend(u32s(link));
    for (s, frac, data) in packets {
        b.extend(u32s(*s));
        b.extend(u32s(*frac));
        b.extend(u32s(data.len() as u32));
        b.extend(u32s(data.len() as u32 + 9));
        b.extend(*data);
    }
    b
}

fn read(bytes: Vec<u8>) -> Result<Vec<CapturedPacket>, String> {
    Reader::from_read(Path::new("t.pcap"), Box::new(Cursor::new(bytes)))
        .and_then(|r| r.collect::<Result<Vec<_>, _>>())
        .map_err(|e| e.to_string())
}

#[test]
fn both_byte_orders_and_both_resolutions_read_alike() {
    for big_endian in [false, true] {
        for (magic, frac) in [(0xa1b2_c3d4, 5_000), (0xa1b2_3c4d, 5_000_000)] {
            let packets = read(pcap(magic, big_endian, 1, &[(7, frac, &[1; 60]), (8, 0, &[2; 14])])).unwrap();
            assert_eq!(packets.len(), 2, "magic {magic:x} big endian {big_endian}");
            assert_eq!(packets[0].time_ns, 7_005_000_000);
            assert_eq!((packets[0].data.len(), packets[0].wire_len), (60, 69));
        }
    }
}

#[test]
fn another_link_type_is_named() {
    let e = read(pcap(0xa1b2_c3d4, false, 101, &[])).unwrap_err();
    assert!(e.starts_with("t.pcap: link type 101 (RAW"), "{e}");
}

#[test]
fn a_truncated_file_gives_its_whole_packets_and_then_an_error() {
    let mut bytes = pcap(0xa1b2_c3d4, false, 1, &[(1, 0, &[1; 60]), (2, 0, &[2; 60])]);
    bytes.truncate(bytes.len() - 5);
    let mut reader = Reader::from_read(Path::new("t.pcap"), Box::new(Cursor::new(bytes))).unwrap();
    assert!(reader.next().unwrap().is_ok());
    let e = reader.next().unwrap().unwrap_err().to_string();
    assert_eq!(e, "t.pcap: the file ends in the middle of a packet (after 1 packets)");
    assert!(reader.next().is_none());
}

#[test]
fn rubbish_is_refused() {
    assert_eq!(
        read(b"hello, this is text".to_vec()).unwrap_err(),
        "t.pcap: neither a pcap nor a pcapng file"
    );
    assert_eq!(read(Vec::new()).unwrap_err(), "t.pcap: the file is empty");
    let mut huge = pcap(0xa1b2_c3d4, false, 1, &[]);
    huge.extend([0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]);
    assert!(read(huge).is_err());
}
