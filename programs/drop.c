// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* drop: every frame is dropped.
 *
 * The floor of what a program can cost: nothing is read, nothing is counted. What a driver needs
 * to recycle a buffer is what remains.
 */
#include "include/base.h"

SEC("xdp")
int drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
