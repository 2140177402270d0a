// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Maps as iproute2 declares them, a map in a map, and program arrays filled by section names.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct bpf_elf_map {
	__u32 type;
	__u32 size_key;
	__u32 size_value;
	__u32 max_elem;
	__u32 flags;
	__u32 id;
	__u32 pinning;
	__u32 inner_id;
	__u32 inner_idx;
};

struct bpf_elf_map SEC("maps") map_inner = {
	.type = BPF_MAP_TYPE_ARRAY,
	.size_key = 4,
	.size_value = 8,
	.max_elem = 1,
	.id = 42,
	.inner_idx = 3,
	.pinning = 2,
};

struct bpf_elf_map SEC("maps") map_outer = {
	.type = BPF_MAP_TYPE_ARRAY_OF_MAPS,
	.size_key = 4,
	.size_value = 4,
	.max_elem = 8,
	.inner_id = 42,
};

struct bpf_elf_map SEC("maps") jumps = {
	.type = BPF_MAP_TYPE_PROG_ARRAY,
	.size_key = 4,
	.size_value = 4,
	.max_elem = 8,
	.id = 7,
	.inner_idx = -1,
};

SEC("7/2")
int second(struct xdp_md *ctx)
{
	return XDP_DROP;
}

SEC("prog")
int entry(struct xdp_md *ctx)
{
	__u32 key = 3;
	void *inner = bpf_map_lookup_elem(&map_outer, &key);

	if (inner)
		bpf_map_lookup_elem(inner, &key);
	bpf_map_lookup_elem(&map_inner, &key);
	bpf_tail_call(ctx, &jumps, 2);
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual MIT/GPL";
