// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* A BPF object with a map and a license, and nothing to run. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} lonely SEC(".maps");

char _license[] SEC("license") = "Dual BSD/GPL";
