// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Argument is not the special field that the function works on.
//
// Rejected: EB0511 at line 18
#include "rejection.h"

ARRAY(values, struct { struct bpf_timer timer; }, 1);
ARRAY(others, struct { struct bpf_timer timer; }, 1);

SEC("xdp")
int refused(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (value)
		bpf_timer_init(&value->timer, &others, 1);
	return XDP_PASS;
}

SEC("xdp")
int mended(struct xdp_md *ctx)
{
	__u32 key = 0;
	values_value *value = bpf_map_lookup_elem(&values, &key);

	if (value)
		bpf_timer_init(&value->timer, &values, 1);
	return XDP_PASS;
}
