"""MindIR's messages, as far as a network needs them: numbers and kinds of fields, of `mind_ir.proto` in MindSpore."""

from __future__ import annotations

from homespun.formats.protobuf import Schema

EXTERNAL = Schema("ExternalDataProto", {1: ("location", "text"), 2: ("offset", "int"), 3: ("length", "int")})
TENSOR = Schema(
    "TensorProto",
    {
        **{1: ("dims", ["int"]), 2: ("data_type", "int"), 3: ("float_data", "floats"), 4: ("int32_data", ["int"])},
        **{6: ("int64_data", ["int"]), 7: ("name", "text"), 9: ("raw_data", "bytes"), 10: ("double_data", "doubles")},
        **{12: ("external_data", EXTERNAL), 16: ("compression_type", "int"), 17: ("quant_params", ["bytes"])},
    },
)
ATTRIBUTE = Schema("AttributeProto")
ATTRIBUTE.fields = {
    **{1: ("name", "text"), 2: ("f", "float"), 3: ("i", "int"), 4: ("d", "double"), 5: ("s", "bytes")},
    **{6: ("t", TENSOR), 8: ("floats", "floats"), 9: ("doubles", "doubles"), 10: ("ints", ["int"])},
    **{11: ("strings", ["bytes"]), 12: ("tensors", [TENSOR]), 16: ("type", "int"), 17: ("values", [ATTRIBUTE])},
}
NODE = Schema(
    "NodeProto",
    {
        **{1: ("input", ["text"]), 2: ("output", ["text"]), 3: ("name", "text"), 4: ("op_type", "text")},
        **{5: ("attribute", [ATTRIBUTE]), 7: ("domain", "text")},
    },
)
VALUE = Schema("ValueInfoProto", {1: ("name", "text"), 2: ("tensor", [TENSOR]), 5: ("attr_info", ATTRIBUTE)})
GRAPH = Schema(
    "GraphProto",
    {
        **{1: ("node", [NODE]), 2: ("name", "text"), 3: ("parameter", [TENSOR]), 5: ("input", [VALUE])},
        **{6: ("output", [VALUE]), 10: ("map_parameter", ["bytes"])},
    },
)
PRIMITIVE = Schema("PrimitiveProto", {1: ("name", "text"), 2: ("op_type", "text"), 3: ("attribute", [ATTRIBUTE])})
MODEL = Schema(
    "ModelProto",
    {
        **{1: ("ir_version", "text"), 2: ("producer_name", "text"), 5: ("model_version", "text"), 7: ("graph", GRAPH)},
        **{8: ("functions", [GRAPH]), 10: ("little_endian", "int"), 12: ("primitives", [PRIMITIVE])},
    },
)
