"""Programs as XLA writes them, small enough to count by hand."""

# ruff: noqa: E501

# A loop of 5 turns in steps of 2 from 0 to 9, whose limit comes from outside, around a product of
# [4, 8] and [8, 16] and an all-gather over two groups of four; inside it a loop of 3 turns.
LOOPS = """\
HloModule loops, is_scheduled=true, num_partitions=8

%inner_body (p.1: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %p.1 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %one.1 = s32[]{:T(128)} constant(1)
  %next.1 = s32[]{:T(128)} add(%i.1, %one.1)
  %x.1 = f32[4,8]{1,0:T(8,128)} get-tuple-element(%p.1), index=1
  %shifted = f32[4,8]{1,0:T(8,128)} collective-permute(%x.1), channel_id=1, source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}
  ROOT %out.1 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) tuple(%next.1, %shifted)
}

%inner_cond (p.2: (s32[], f32[4,8])) -> pred[] {
  %p.2 = (s32[]{:T(128)}, f32[4,8]{1,0:T(8,128)}) parameter(0)
  %i.2 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  %three = s32[]{:T(128)} constant(3)
  ROOT %lt.2 = pred[]{:T(512)} compare(%i.2, %three), direction=LT
}

%fused (a: f32[4,8], b: f32[8,16]) -> f32[4,16] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[8,16]{1,0} parameter(1)
  ROOT %product = f32[4,16]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (p: (s32[], f32[4,8], f32[8,16], s32[])) -> (s32[], f32[4,8], f32[8,16], s32[]) {
  %p = (s32[], f32[4,8]{1,0}, f32[8,16]{1,0}, s32[]) parameter(0)
  %i = s32[] get-tuple-element(%p), index=0
  %two = s32[] constant(2)
  %next = s32[] add(%i, %two)
  %x = f32[4,8]{1,0} get-tuple-element(%p), index=1
  %w = f32[8,16]{1,0} get-tuple-element(%p), index=2
  %limit = s32[] get-tuple-element(%p), index=3
  %y = f32[4,16]{1,0} fusion(%x, %w), kind=kOutput, calls=%fused
  %all = f32[16,8]{1,0} all-gather(%x), channel_id=2, replica_groups=[2,4]<=[8], dimensions={0}, use_global_device_ids=true
  %zero.1 = s32[] constant(0)
  %start.1 = (s32[], f32[4,8]{1,0}) tuple(%zero.1, %x)
  %loop.1 = (s32[], f32[4,8]{1,0}) while(%start.1), condition=%inner_cond, body=%inner_body
  %x.2 = f32[4,8]{1,0} get-tuple-element(%loop.1), index=1
  ROOT %out = (s32[], f32[4,8]{1,0}, f32[8,16]{1,0}, s32[]) tuple(%next, %x.2, %w, %limit)
}

%cond (p.3: (s32[], f32[4,8], f32[8,16], s32[])) -> pred[] {
  %p.3 = (s32[], f32[4,8]{1,0}, f32[8,16]{1,0}, s32[]) parameter(0)
  %i.3 = s32[] get-tuple-element(%p.3), index=0
  %limit.3 = s32[] get-tuple-element(%p.3), index=3
  ROOT %lt.3 = pred[] compare(%i.3, %limit.3), direction=LT
}

ENTRY %main (x.9: f32[4,8], w.9: f32[8,16]) -> f32[4,8] {
  %x.9 = f32[4,8]{1,0} parameter(0), metadata={op_name="x"}
  %w.9 = f32[8,16]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %nine = s32[] constant(9)
  %start = (s32[], f32[4,8]{1,0}, f32[8,16]{1,0}, s32[]) tuple(%zero, %x.9, %w.9, %nine)
  %loop = (s32[], f32[4,8]{1,0}, f32[8,16]{1,0}, s32[]) while(%start), condition=%cond, body=%body
  ROOT %result = f32[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""

# What the TPU compiler makes of a product over devices: a convolution whose window reaches outside,
# a reduce-scatter in the clothes of an all-reduce, an all-gather spread over three fusions.
TPU = """\
HloModule tpu, num_partitions=4

%all-reduce-scatter.1 (g: bf16[64,32]) -> bf16[16,32] {
  %g = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %sum = bf16[64,32]{1,0:T(8,128)(2,1)} all-reduce(%g), channel_id=1, replica_groups={{0,1,2,3}}, use_global_device_ids=true, to_apply=%add
  %zero = s32[] constant(0)
  ROOT %mine = bf16[16,32]{1,0:T(8,128)(2,1)S(1)} dynamic-slice(%sum, %zero, %zero), dynamic_slice_sizes={16,32}
}

%fused_computation.1 (s: bf16[16,32]) -> (bf16[16,32], bf16[64,32]) {
  %s = bf16[16,32]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %ag.1 = bf16[64,32]{1,0:T(8,128)(2,1)} all-gather(%s), channel_id=7, replica_groups=mesh['a'=4] {'a'}, dimensions={0}, frontend_attributes={chain_id="2"}
  ROOT %begun = (bf16[16,32]{1,0}, bf16[64,32]{1,0}) custom-call(%ag.1), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.2 (s.2: bf16[16,32]) -> bf16[64,32] {
  %s.2 = bf16[16,32]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  ROOT %ag.2 = bf16[64,32]{1,0:T(8,128)(2,1)} all-gather(%s.2), channel_id=7, replica_groups=mesh['a'=4] {'a'}, dimensions={0}, frontend_attributes={chain_id="2"}
}

%fused_computation.3 (s.3: bf16[16,32]) -> bf16[64,32] {
  %s.3 = bf16[16,32]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %ag.3 = bf16[64,32]{1,0:T(8,128)(2,1)} all-gather(%s.3), channel_id=7, replica_groups=mesh['a'=4] {'a'}, dimensions={0}, frontend_attributes={chain_id="2"}
  ROOT %ended = bf16[64,32]{1,0} custom-call(%s.3, %ag.3), custom_call_target="AsyncCollectiveDone"
}

%sliced (stack: f32[40,16,8], n: s32[]) -> f32[16,8] {
  %stack = f32[40,16,8]{2,1,0} parameter(0)
  %n = s32[] parameter(1)
  %z = s32[] constant(0)
  %row = f32[1,16,8]{2,1,0} dynamic-slice(%stack, %n, %z, %z), dynamic_slice_sizes={1,16,8}
  ROOT %flat = f32[16,8]{1,0} bitcast(%row)
}

ENTRY %main (g.9: bf16[64,32], s.9: bf16[16,32], stack.9: f32[40,16,8], n.9: s32[]) -> bf16[16,32] {
  %g.9 = bf16[64,32]{1,0:T(8,128)(2,1)} parameter(0)
  %s.9 = bf16[16,32]{1,0:T(8,128)(2,1)} parameter(1)
  %stack.9 = f32[40,16,8]{2,1,0} parameter(2)
  %n.9 = s32[] parameter(3)
  %part = f32[16,8]{1,0} fusion(%stack.9, %n.9), kind=kLoop, calls=%sliced
  %first = (bf16[16,32]{1,0}, bf16[64,32]{1,0}) fusion(%s.9), kind=kCustom, calls=%fused_computation.1
  %beside = bf16[64,32]{1,0} fusion(%s.9), kind=kCustom, calls=%async_collective_fusion.2
  %last = bf16[64,32]{1,0} fusion(%s.9), kind=kCustom, calls=%fused_computation.3
  ROOT %mine.9 = bf16[16,32]{1,0:T(8,128)(2,1)S(1)} fusion(%g.9), kind=kCustom, calls=%all-reduce-scatter.1
}
"""
