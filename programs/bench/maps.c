/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/*
 * One operation on one type of map, OPS times a run, so that the time of a run says what the
 * operation costs. Keys are 0..63, spread by a multiplication; `fill` programs put them all in.
 * Deleting is measured together with the update that it undoes. Errors are gathered without a branch, so
 * that the verifier's paths do not multiply.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define OPS 64
#define ENTRIES 1024

#define MAP(name, map_type, flags)                                                                 \
	struct {                                                                                   \
		__uint(type, map_type);                                                            \
		__type(key, __u32);                                                                \
		__type(value, __u64);                                                              \
		__uint(max_entries, ENTRIES);                                                      \
		__uint(map_flags, flags);                                                          \
	} name SEC(".maps")

MAP(hash, BPF_MAP_TYPE_HASH, 0);
MAP(percpu_hash, BPF_MAP_TYPE_PERCPU_HASH, 0);
MAP(lru_hash, BPF_MAP_TYPE_LRU_HASH, 0);
MAP(lru_percpu_hash, BPF_MAP_TYPE_LRU_PERCPU_HASH, 0);
MAP(array, BPF_MAP_TYPE_ARRAY, 0);
MAP(percpu_array, BPF_MAP_TYPE_PERCPU_ARRAY, 0);

struct prefix {
	__u32 bits;
	__u32 addr;
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct prefix);
	__type(value, __u64);
	__uint(max_entries, ENTRIES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
} lpm SEC(".maps");

#define LIST(name, map_type)                                                                       \
	struct {                                                                                   \
		__uint(type, map_type);                                                            \
		__type(value, __u64);                                                              \
		__uint(max_entries, ENTRIES);                                                      \
	} name SEC(".maps")

LIST(queue, BPF_MAP_TYPE_QUEUE);
LIST(stack, BPF_MAP_TYPE_STACK);
LIST(bloom, BPF_MAP_TYPE_BLOOM_FILTER);

#define KEY(i) ((i) * 37 % ENTRIES)

#define LOOKUP(map)                                                                                \
	SEC("xdp/" #map "_lookup") int map##_lookup(struct xdp_md *ctx)                            \
	{                                                                                          \
		__u64 sum = 0;                                                                     \
		for (int i = 0; i < OPS; i++) {                                                    \
			__u32 key = KEY(i);                                                        \
			__u64 *value = bpf_map_lookup_elem(&map, &key);                            \
			if (value)                                                                 \
				sum += *value;                                                     \
		}                                                                                  \
		return sum > 1 ? XDP_PASS : XDP_DROP;                                              \
	}

#define UPDATE(map)                                                                                \
	SEC("xdp/" #map "_update") int map##_update(struct xdp_md *ctx)                            \
	{                                                                                          \
		long failed = 0;                                                                   \
		for (int i = 0; i < OPS; i++) {                                                    \
			__u32 key = KEY(i);                                                        \
			__u64 value = i;                                                           \
			failed |= bpf_map_update_elem(&map, &key, &value, BPF_ANY);              \
		}                                                                                  \
		return failed ? XDP_ABORTED : XDP_PASS;                                            \
	}

#define CHURN(map)                                                                                 \
	SEC("xdp/" #map "_churn") int map##_churn(struct xdp_md *ctx)                              \
	{                                                                                          \
		long failed = 0;                                                                   \
		for (int i = 0; i < OPS; i++) {                                                    \
			__u32 key = KEY(i);                                                        \
			__u64 value = i;                                                           \
			failed |= bpf_map_update_elem(&map, &key, &value, BPF_ANY);              \
			failed |= bpf_map_delete_elem(&map, &key);                               \
		}                                                                                  \
		return failed ? XDP_ABORTED : XDP_PASS;                                            \
	}

#define PUSH_POP(map)                                                                              \
	SEC("xdp/" #map "_push_pop") int map##_push_pop(struct xdp_md *ctx)                        \
	{                                                                                          \
		long failed = 0;                                                                   \
		for (int i = 0; i < OPS; i++) {                                                    \
			__u64 value = i;                                                           \
			failed |= bpf_map_push_elem(&map, &value, BPF_ANY);                      \
			failed |= bpf_map_pop_elem(&map, &value);                                \
		}                                                                                  \
		return failed ? XDP_ABORTED : XDP_PASS;                                            \
	}

UPDATE(array)
LOOKUP(array)
UPDATE(percpu_array)
LOOKUP(percpu_array)
UPDATE(hash)
LOOKUP(hash)
CHURN(hash)
UPDATE(percpu_hash)
LOOKUP(percpu_hash)
CHURN(percpu_hash)
UPDATE(lru_hash)
LOOKUP(lru_hash)
CHURN(lru_hash)
UPDATE(lru_percpu_hash)
LOOKUP(lru_percpu_hash)
CHURN(lru_percpu_hash)
PUSH_POP(queue)
PUSH_POP(stack)

SEC("xdp/lpm_update") int lpm_update(struct xdp_md *ctx)
{
	long failed = 0;

	for (int i = 0; i < OPS; i++) {
		struct prefix key = { .bits = 32, .addr = KEY(i) };
		__u64 value = i;

		failed |= bpf_map_update_elem(&lpm, &key, &value, BPF_ANY);
	}
	return failed ? XDP_ABORTED : XDP_PASS;
}

SEC("xdp/lpm_lookup") int lpm_lookup(struct xdp_md *ctx)
{
	__u64 sum = 0;

	for (int i = 0; i < OPS; i++) {
		struct prefix key = { .bits = 32, .addr = KEY(i) };
		__u64 *value = bpf_map_lookup_elem(&lpm, &key);

		if (value)
			sum += *value;
	}
	return sum > 1 ? XDP_PASS : XDP_DROP;
}

SEC("xdp/lpm_churn") int lpm_churn(struct xdp_md *ctx)
{
	long failed = 0;

	for (int i = 0; i < OPS; i++) {
		struct prefix key = { .bits = 32, .addr = KEY(i) };
		__u64 value = i;

		failed |= bpf_map_update_elem(&lpm, &key, &value, BPF_ANY);
		failed |= bpf_map_delete_elem(&lpm, &key);
	}
	return failed ? XDP_ABORTED : XDP_PASS;
}

SEC("xdp/bloom_push") int bloom_push(struct xdp_md *ctx)
{
	long failed = 0;

	for (int i = 0; i < OPS; i++) {
		__u64 value = i;

		failed |= bpf_map_push_elem(&bloom, &value, BPF_ANY);
	}
	return failed ? XDP_ABORTED : XDP_PASS;
}

SEC("xdp/bloom_peek") int bloom_peek(struct xdp_md *ctx)
{
	long absent = 0;

	for (int i = 0; i < OPS; i++) {
		__u64 value = i;

		absent |= bpf_map_peek_elem(&bloom, &value);
	}
	return absent ? XDP_DROP : XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
