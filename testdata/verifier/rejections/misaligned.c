// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Misaligned access.
//
// Rejected: EB0307 at line 18
#include "rejection.h"

ARRAY(values, __u64, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	char *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return XDP_DROP;
	__sync_fetch_and_add((__u32 *)(value + 2), 1);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = 0;
	char *value = bpf_map_lookup_elem(&values, &key);

	if (!value)
		return XDP_DROP;
	__sync_fetch_and_add((__u32 *)(value + 4), 1);
	return XDP_PASS;
}
