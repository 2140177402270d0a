// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Reads the packet without asking how long it is: a verifier refuses it, and a checked interpreter
 * stops it as soon as a packet is shorter than 101 bytes.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

SEC("xdp")
int unchecked(struct xdp_md *ctx)
{
	const unsigned char *data = (const unsigned char *)(long)ctx->data;

	return data[100] ? XDP_PASS : XDP_DROP;
}

char _license[] SEC("license") = "Dual BSD/GPL";
