/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * Lookups in the types of map that a program can only read, OPS times a run as in maps.c. Maps of maps hold
 * INNER maps; device and socket maps are empty, since what they could hold depends on the machine: their lookups
 * answer NULL on either home. CPU maps cannot be looked into.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define OPS 64
#define INNER 4

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, __u64);
	__uint(max_entries, 1);
} first SEC(".maps"), second SEC(".maps"), third SEC(".maps"), fourth SEC(".maps");

#define MAP_OF_MAPS(name, map_type)                                                                \
	struct {                                                                                   \
		__uint(type, map_type);                                                            \
		__type(key, __u32);                                                                \
		__uint(max_entries, INNER);                                                        \
		__array(values, struct inner);                                                     \
	} name SEC(".maps") = { .values = { &first, &second, &third, &fourth } }

MAP_OF_MAPS(array_of_maps, BPF_MAP_TYPE_ARRAY_OF_MAPS);
MAP_OF_MAPS(hash_of_maps, BPF_MAP_TYPE_HASH_OF_MAPS);

#define TARGETS(name, map_type)                                                                    \
	struct {                                                                                   \
		__uint(type, map_type);                                                            \
		__type(key, __u32);                                                                \
		__type(value, __u32);                                                              \
		__uint(max_entries, OPS);                                                          \
	} name SEC(".maps")

TARGETS(devmap, BPF_MAP_TYPE_DEVMAP);
TARGETS(devmap_hash, BPF_MAP_TYPE_DEVMAP_HASH);
TARGETS(xskmap, BPF_MAP_TYPE_XSKMAP);

#define LOOKUP(map, keys)                                                                          \
	SEC("xdp/" #map "_lookup") int map##_lookup(struct xdp_md *ctx)                            \
	{                                                                                          \
		int found = 0;                                                                     \
		for (int i = 0; i < OPS; i++) {                                                    \
			__u32 key = i % (keys);                                                    \
			if (bpf_map_lookup_elem(&map, &key))                                       \
				found = 1;                                                 \
		}                                                                                  \
		return found ? XDP_PASS : XDP_DROP;                                                \
	}

LOOKUP(array_of_maps, INNER)
LOOKUP(hash_of_maps, INNER)
LOOKUP(devmap, OPS)
LOOKUP(devmap_hash, OPS)
LOOKUP(xskmap, OPS)

char _license[] SEC("license") = "GPL";
