// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* pass: every frame goes on to the stack.
 *
 * Attached to one end of a veth pair it also switches that end to NAPI, which makes the other end
 * a target that frames can be redirected to.
 */
#include "include/base.h"

SEC("xdp")
int pass(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char _license[] SEC("license") = "Dual BSD/GPL";
