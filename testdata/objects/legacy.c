// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Maps as before BTF: struct bpf_map_def in section "maps", of two sizes, with annotated types, and a static
// one.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct bpf_map_def {
	unsigned int type;
	unsigned int key_size;
	unsigned int value_size;
	unsigned int max_entries;
	unsigned int map_flags;
};

struct sample_map_def {
	struct bpf_map_def def;
	unsigned int inner_map_idx;
	unsigned int numa_node;
};

struct value {
	__u64 packets;
	__u64 bytes;
};

struct bpf_map_def SEC("maps") stats = {
	.type = BPF_MAP_TYPE_HASH,
	.key_size = 4,
	.value_size = sizeof(struct value),
	.max_entries = 64,
	.map_flags = BPF_F_NO_PREALLOC,
};

struct ____btf_map_stats {
	__u32 key;
	struct value value;
};
struct ____btf_map_stats __attribute__((section(".maps.stats"), used)) ____btf_map_stats = {};

struct bpf_map_def SEC("maps") xsks_map = {
	.type = BPF_MAP_TYPE_XSKMAP,
	.key_size = 4,
	.value_size = 4,
	.max_entries = 64,
};

struct sample_map_def SEC("maps") wide = {
	.def = {
		.type = BPF_MAP_TYPE_ARRAY,
		.key_size = 4,
		.value_size = 8,
		.max_entries = 2,
	},
};

static struct bpf_map_def SEC("maps/own") own = {
	.type = BPF_MAP_TYPE_PERCPU_ARRAY,
	.key_size = 4,
	.value_size = 8,
	.max_entries = 3,
};

SEC("xdp_sock")
int xdp_sock_prog(struct xdp_md *ctx)
{
	__u32 key = ctx->rx_queue_index;

	if (bpf_map_lookup_elem(&stats, &key))
		bpf_map_lookup_elem(&wide, &key);
	if (bpf_map_lookup_elem(&own, &key))
		return XDP_DROP;
	return bpf_redirect_map(&xsks_map, key, XDP_PASS);
}

char _license[] SEC("license") = "Dual MIT/GPL";
