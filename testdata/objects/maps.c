// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Maps in .maps with every attribute, inner maps, initialisers.
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct key {
	__u32 a;
	__u16 b[3];
};

struct value {
	__u64 packets;
	struct bpf_spin_lock lock;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct key);
	__type(value, struct value);
} typed SEC(".maps");

struct guarded {
	__u64 seen;
	struct {
		struct bpf_timer timer;
		__u32 runs;
	} inner;
	struct bpf_spin_lock lock;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct guarded);
} special SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(key_size, 12);
	__uint(value_size, 40);
	__uint(max_entries, 64);
} sized SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 5000);
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_BLOOM_FILTER);
	__uint(max_entries, 100);
	__uint(map_extra, 7);
	__type(value, __u64);
} bloom SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_NUMA_NODE);
	__uint(numa_node, 0);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u64);
} near SEC(".maps");

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
};

struct inner inner_a SEC(".maps");
struct inner inner_b SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 8);
	__type(key, __u32);
	__array(values, struct inner);
} outer_array SEC(".maps") = {
	.values = { [5] = (void *)&inner_b, [1] = (void *)&inner_a },
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 8);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_HASH);
		__uint(max_entries, 9);
		__type(key, struct key);
		__type(value, __u16);
	});
} outer_hash SEC(".maps");

int tail_one(struct xdp_md *ctx);
int tail_two(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__array(values, int(struct xdp_md *));
} programs SEC(".maps") = {
	.values = { [0] = (void *)&tail_one, [3] = (void *)&tail_two },
};

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_QUEUE);
	__uint(max_entries, 16);
	__type(value, __u32);
} queue SEC(".maps");

SEC("xdp")
int tail_one(struct xdp_md *ctx)
{
	bpf_tail_call(ctx, &programs, 3);
	return XDP_DROP;
}

SEC("xdp")
int tail_two(struct xdp_md *ctx)
{
	return XDP_PASS;
}

SEC("xdp")
int uses_all(struct xdp_md *ctx)
{
	struct key key = {};
	__u32 index = 1;
	__u64 one = 1;
	void *inner, *found;

	found = bpf_map_lookup_elem(&typed, &key);
	if (!found)
		bpf_map_lookup_elem(&sized, &key);
	bpf_ringbuf_output(&ring, &one, sizeof(one), 0);
	bpf_perf_event_output(ctx, &events, 0xffffffffULL, &one, sizeof(one));
	bpf_map_push_elem(&bloom, &one, 0);
	bpf_map_push_elem(&queue, &index, 0);
	bpf_map_update_elem(&near, &index, &one, 0);
	inner = bpf_map_lookup_elem(&outer_array, &index);
	if (inner)
		bpf_map_lookup_elem(inner, &index);
	inner = bpf_map_lookup_elem(&outer_hash, &index);
	if (inner)
		bpf_map_lookup_elem(inner, &key);
	bpf_map_lookup_elem(&inner_a, &index);
	bpf_map_lookup_elem(&inner_b, &index);
	bpf_tail_call(ctx, &programs, 0);
	return bpf_redirect_map(&ports, index, 0);
}

char _license[] SEC("license") = "Dual MIT/GPL";
