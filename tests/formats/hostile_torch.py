"""Hostile, damaged and unsupported torch files: name -> (bytes, a word that the error must say)."""

import os
import pickle
import struct
import zipfile

from formats.torch_files import (
    DATA,
    STATE,
    call,
    integer,
    integers,
    legacy,
    name,
    pickled,
    storage,
    table,
    tensor,
    text,
    tuple_,
    zipped,
)

MARKER = "marker_that_must_not_appear"
Files = dict[str, tuple[bytes, str]]


class Evil:
    def __reduce__(self):
        return os.system, (f"touch {MARKER}",)


def code_running() -> Files:
    command = text(f"touch {MARKER}")
    calls = {
        "eval": call(name("builtins", "eval"), text(f"open('{MARKER}', 'w')")),
        "exec2": call(name("__builtin__", "exec"), text(f"open('{MARKER}', 'w')")),
        "getattr": call(name("builtins", "getattr"), name("os", "path"), text("join")),
        "subprocess": call(name("subprocess", "Popen"), command),
        "loader": call(name("torch.storage", "_load_from_bytes"), b"C\x01."),
        "hub": call(name("torch.hub", "load"), command),
        "dotted": text("collections") + text("OrderedDict.__init__.__globals__") + b"\x93",
        "subclass": name("torch", "nn.Module"),
        "encode": call(name("_codecs", "encode"), text("x"), text("latin1")),
    }
    wanted = {
        **{"eval": "builtins.eval", "exec2": "__builtin__.exec", "getattr": "builtins.getattr"},
        **{"subprocess": "subprocess.Popen", "loader": "torch.storage._load_from_bytes"},
        **{"hub": "torch.hub.load", "dotted": "OrderedDict.__init__.__globals__"},
        **{"subclass": "torch.nn.Module", "encode": "_codecs.encode"},
    }
    files: Files = {}
    for key, body in calls.items():
        files[f"{key}.zip"] = (zipped(pickled(table(a=tensor(), w=body))), wanted[key])
        files[f"{key}.legacy"] = (legacy(pickled(table(w=body))), wanted[key])
        files[f"{key}.raw"] = (pickled(body), wanted[key])
    for protocol in range(6):
        evil = pickle.dumps(Evil(), protocol)
        nested = pickle.dumps({"state_dict": [({"w": Evil()},)]}, protocol)
        # Protocol 0 asks for its strings first, in an opcode that is refused before the global.
        files[f"system{protocol}.raw"] = (evil, "system")
        files[f"system{protocol}.zip"] = (zipped(evil), "system")
        files[f"system{protocol}.legacy"] = (legacy(evil), "system")
        files[f"nested{protocol}.zip"] = (zipped(nested), "" if protocol == 0 else "system")
        files[f"first{protocol}.legacy"] = (legacy(magic=evil), "system")
        files[f"keys{protocol}.legacy"] = (legacy(listed=evil), "system")
    inst = f"(S'touch {MARKER}'\nios\nsystem\n.".encode()
    files["inst.raw"] = (b"\x80\x02" + inst, "os.system")
    files["inst.zip"] = (zipped(inst), "os.system")
    files["obj.zip"] = (zipped(b"\x80\x02(cos\nsystem\n" + command + b"o."), "os.system")
    files["newobj.zip"] = (zipped(pickled(name("torch", "Size") + b")\x81")), "NEWOBJ")
    files["newobj_ex.zip"] = (zipped(pickled(name("torch", "Size") + b")}\x92")), "NEWOBJ_EX")
    files["extension.zip"] = (zipped(pickled(b"\x82\x01")), "EXT1")
    return files


BOMB_WORDS = {
    **{"long_binput": "memo index", "long_binput_2g": "memo index", "get": "never stored"},
    **{"bytearray8": "BYTEARRAY8", "binbytes8": "over the limit", "binunicode8": "over the limit"},
    **{"binunicode": "over the limit", "binstring": "over the limit", "frame": "frame"},
    **{"long4": "an integer of", "long4_negative": "an integer of", "opcodes": "operations"},
    **{"marks": "unfinished", "laughs": "nested", "shared_lists": "nested"},
    **{"laughs_key": "dict key", "long_names": "name of more"},
}


def bombs() -> Files:
    programs = {
        "long_binput": b"\x80\x02]r\xff\xff\xff\x0f.",
        "long_binput_2g": b"\x80\x02]r\x00\xff\xff\x7f.",
        "bytearray8": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
        "binbytes8": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".",
        "binunicode8": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b".",
        "binunicode": b"\x80\x02X\xff\xff\xff\xff.",
        "binstring": b"\x80\x02T\xff\xff\xff\xff.",
        "long4": b"\x80\x02\x8b\xff\xff\xff\x7f.",
        "long4_negative": b"\x80\x02\x8b\xff\xff\xff\xff.",
        "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"].",
        "get": b"\x80\x02j\xff\xff\xff\x7f.",
        "opcodes": b"\x80\x02" + b"]" * 1_100_000 + b".",
        "deep_list": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "deep_tuple": b"\x80\x02)" + b"\x85" * 100_000 + b".",
        "marks": b"\x80\x02" + b"(" * 100_000 + b".",
        # Each level holds the one below twice: 2**60 leaves in a few hundred bytes.
        "laughs": b"\x80\x02}X\x01\x00\x00\x00a)" + laughs_tuple(60) + b"s.",
        "laughs_key": b"\x80\x02})" + laughs_tuple(60) + b"Ns.",
        "shared_lists": shared_lists(3000),
        "long_names": long_names(),
    }
    files: Files = {}
    for key, program in programs.items():
        files[f"{key}.zip"] = (zipped(program), BOMB_WORDS.get(key, ""))
        if len(program) < 1000:
            files[f"{key}.raw"] = (program, "")
            files[f"{key}.legacy"] = (legacy(program, (), b""), "")
    return files


def laughs_tuple(levels: int) -> bytes:
    return b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(levels))


def shared_lists(count: int) -> bytes:
    inner = b"](" + b"K\x00" * count + b"eq\x00"
    return b"\x80\x02}X\x01\x00\x00\x00a](" + inner + b"h\x00" * (count * 3) + b"es."


def long_names() -> bytes:
    """A megabyte of key, repeated in the dotted name of every tensor below it."""
    key, one = text("k" * (1 << 20)), b"]q\x01"
    inner = b"}(" + b"".join(text(f"{n}") + b"h\x01" for n in range(20_000)) + b"u"
    return b"\x80\x02}(" + text("x") + one + key + inner + b"u."


def odd_objects() -> Files:
    ordered = call(name("collections", "OrderedDict"))
    bodies = {
        "setitem_list": (b"]" + text("a") + b"Ns", "not a dict"),
        "setitem_tensor": (tensor() + text("a") + b"Ns", "not a dict"),
        "append_dict": (b"}Na", "not a list"),
        "append_tuple": (b")Na", "not a list"),
        "appends_ordered": (ordered + b"(Ne", "not a list"),
        "build_items": (ordered + table(items=b"N") + b"b", "attributes"),
        "build_dict": (b"}" + table(a=b"N") + b"b", "attributes"),
        "build_tensor": (tensor() + table(shape=b"N") + b"b", "attributes"),
        "build_metadata_on_dict": (b"}" + table(_metadata=b"N") + b"b", "attributes"),
        "build_none": (ordered + b"Nb", "attributes"),
        "self_list": (table(a=b"]q\x00h\x00a"), ""),
        "self_dict": (b"}q\x00" + text("a") + b"h\x00s", ""),
        "list_key": (b"}]Ns", "key"),
        "nested_key": (b"}))\x86Ns", "key"),
        "twice": (b"}(" + (text("w") + tensor()) * 2 + b"u", "twice"),
        "ordered_twice": (
            call(name("collections", "OrderedDict"), b"](" + tuple_(text("a"), b"N") * 2 + b"e"),
            "twice",
        ),
        "collision": (b"}(" + text("a.b") + tensor() + text("a") + table(b=tensor()) + b"u", "b"),
        "number_collision": (b"}(" + text("1") + tensor() + integer(1) + tensor() + b"u", "1"),
        "two_models": (
            table(model=table(w=tensor()), state_dict=table(w=tensor(offset=integer(0)))),
            "several",
        ),
        "odd_items": (b"}(" + text("a") + b"u", "without a value"),
        "reduce_text": (text("x") + b")R", "constructor"),
        "reduce_storage_class": (name("torch", "FloatStorage") + b")R", "constructor"),
        "reduce_no_tuple": (name("torch", "Size") + b"]R", "arguments"),
        "reduce_arguments": (call(name("torch._utils", "_rebuild_tensor_v2"), b"N"), "arguments"),
        "size_of_text": (call(name("torch", "Size"), tuple_(text("x"))), "Size"),
        "device_of_list": (call(name("torch", "device"), b"]"), "device"),
        "ordered_of_text": (call(name("collections", "OrderedDict"), text("ab")), "OrderedDict"),
        "parameter_of_none": (call(name("torch._utils", "_rebuild_parameter"), b"N"), "Parameter"),
        "subclass_loop": (subclass_loop(), "_rebuild_from_type_v2"),
        "underflow": (b"a", "stack"),
        "no_mark": (b"t", "never began"),
        "stop_in_mark": (b"(N", "unfinished"),
        "no_get": (b"h\x05", "memo"),
        "pop": (b"N0", "POP"),
        "top_list": (b"]", "list"),
        "top_number": (integer(3), "int"),
        "top_tensor": (tensor(), "a tensor at the top"),
        "no_tensor": (table(a=integer(1), b=text("x")), "no tensor"),
        "bad_utf8": (b"X\x01\x00\x00\x00\xff", "UTF-8"),
        "global_of_numbers": (integer(1) + integer(2) + b"\x93", "not text"),
        "global_unended": (b"cos", "endless"),
        "person": (text("storage") + b"Q", "persistent"),
        "module_source": (tuple_(text("module"), b"N", text("f.py"), text("x")) + b"Q", "persis"),
    }
    files = {f"{key}.zip": (zipped(pickled(body)), word) for key, (body, word) in bodies.items()}
    files["protocol9.zip"] = (zipped(b"\x80\x09}."), "protocol 9")
    files["no_stop.zip"] = (zipped(STATE[:-1]), "truncated")
    files["trailing_pickle.zip"] = (zipped(STATE + b"x"), "behind")
    return files


def subclass_loop() -> bytes:
    """Arguments that nest the same constructor deeper than Python's stack."""
    function, kind = name("torch._tensor", "_rebuild_from_type_v2"), name("torch", "Tensor")
    start = function + b"q\x01" + kind + b"q\x02\x86"
    body = start
    for _ in range(3000):
        body += b"q\x03(h\x01h\x02h\x03Nt"
    return b"](" + start + body + b"eh\x01h\x03R"


def false_tensors() -> Files:
    many = integers([1] * 65)
    conj = b"}" + text("conj") + b"\x88s"
    v3 = name("torch._utils", "_rebuild_tensor_v3")
    untyped = tuple_(
        *(text("storage"), name("torch.storage", "UntypedStorage"), text("0")),
        *(text("cpu"), integer(24)),
    )
    shape, strides = integers((2, 3)), integers((3, 1))
    bodies = {
        "storage_too_big": tensor(storage(count=7)),
        "storage_too_small": tensor(storage(count=5), shape=integers((5,)), strides=integers((1,))),
        "storage_huge": tensor(storage(count=1 << 62)),
        "storage_negative": tensor(storage(count=-6)),
        "storage_wide": tensor(storage(kind="DoubleStorage")),
        "storage_unknown": tensor(storage(kind="QInt8Storage")),
        "storage_parent": tensor(storage(key="../data.pkl")),
        "storage_absolute": tensor(storage(key="/etc/passwd")),
        "storage_dots": tensor(storage(key="..")),
        "storage_missing": tensor(storage(key="9")),
        "offset_outside": tensor(offset=integer(1)),
        "offset_negative": tensor(offset=integer(-1)),
        "offset_huge": tensor(offset=integer(1 << 62)),
        "offset_true": tensor(offset=b"\x88"),
        "shape_outside": tensor(shape=integers((3, 3))),
        "shape_negative": tensor(shape=integers((-2, -3))),
        "shape_float": tensor(shape=tuple_(b"G" + bytes(8), integer(3))),
        "shape_none": tensor(shape=b"N"),
        "shape_65": tensor(shape=many, strides=many),
        "shape_zero_huge": tensor(shape=integers((0, 1 << 62)), strides=integers((1, 1))),
        "stride_outside": tensor(strides=integers((4, 1))),
        "stride_negative": tensor(offset=integer(5), strides=integers((-3, -1))),
        "stride_huge": tensor(strides=integers((1 << 61, 1))),
        "stride_short": tensor(strides=integers((1,))),
        "stride_zero_huge": tensor(shape=integers((1 << 40,)), strides=integers((0,))),
        "stride_zero_1g": tensor(shape=integers((1 << 28,)), strides=integers((0,))),
        "no_storage": tensor(stored=b"N"),
        "conjugate": tensor(None, integer(0), shape, strides, conj),
        "untyped_v2": tensor(untyped + b"Q"),
        "v3_no_dtype": call(
            *(v3, untyped + b"Q", integer(0), shape, strides, b"\x89", b"N", text("float32"))
        ),
        "v3_outside": call(
            *(v3, untyped + b"Q", integer(0), shape, strides, b"\x89", b"N"),
            name("torch", "float64"),
        ),
    }
    files = {f"{key}.zip": (zipped(pickled(table(w=b))), "") for key, b in bodies.items()}
    two = table(a=tensor(), b=tensor(storage(kind="IntStorage")))
    files["storage_two_kinds.zip"] = (zipped(pickled(two)), "two ways")
    many_views = table(**{f"w{n}": b"h\x07" for n in range(200)})
    big = tensor(shape=integers((1 << 20,)), strides=integers((0,)))
    files["growth.zip"] = (zipped(pickled(table(a=big + b"q\x07", b=many_views))), "expanded")
    return files


def broken_zips() -> Files:
    good = zipped()
    where = good.rfind(b"PK\x05\x06")
    central = good.find(b"PK\x01\x02")
    data = good.find(DATA)
    bomb = zipped(storages={"0": bytes(24)}, compression=zipfile.ZIP_DEFLATED)
    files: Files = {
        "deflated": (zipped(compression=zipfile.ZIP_DEFLATED), "compressed"),
        "bomb": (bomb, "compressed"),
        "bzip2": (zipped(compression=zipfile.ZIP_BZIP2), "compressed"),
        "twice": (zipped(extra=[("archive/data/0", DATA)]), "two entries"),
        "two_pickles": (zipped(extra=[("archive/data.pkl", STATE)]), "two entries"),
        "two_roots": (zipped(extra=[("other/data.pkl", STATE)]), "2 pickles"),
        "parent": (zipped(extra=[("archive/../../evil", b"x")]), "unsafe"),
        "absolute": (zipped(extra=[("/etc/evil", b"x")]), "unsafe"),
        "backslash": (good.replace(b"archive/data/0", b"archive\\data/0"), "unsafe"),
        "outside": (zipped(extra=[("evil", b"x")]), "outside"),
        "big_endian": (zipped(extra=[("archive/byteorder", b"big")]), "little-endian"),
        "torchscript": (zipped(extra=[("archive/constants.pkl", b"x")]), "TorchScript"),
        "torchscript_code": (zipped(extra=[("archive/code/a.py", b"x")]), "TorchScript"),
        "npz": (npz(), "NumPy archive"),
        "other": (zipped(root="a/b"), "another zip"),
        "empty": (b"PK\x05\x06" + bytes(18), "another zip"),
        "behind": (good + b"x", "behind"),
        "behind_much": (good + bytes(100_000), "truncated"),
        "in_front": (b"PK\x03\x04" + good, "zip directory"),
        "overlap": (overlap(good), ""),
        "quoted": (quoted(), "overlap"),
        "flip_storage": (flip(good, data), "CRC-32"),
        "flip_pickle": (flip(good, good.find(b"FloatStorage")), "CRC-32"),
        "flip_local_name": (flip(good, good.find(b"archive/data/0") + 13), "two names"),
        "no_crc": (without_crc(good), "check_crc=False"),
        "encrypted": (set_flag(good, 1), "encrypted"),
        "count": (good[: where + 8] + b"\x09\x00\x09\x00" + good[where + 12 :], "declared"),
        "split": (good[: where + 4] + b"\x01\x00" + good[where + 6 :], "split"),
        "directory_outside": (patch(good, where + 16, 1 << 30), "directory"),
        "local_outside": (patch(good, central + 42, 1 << 30), "local header"),
        "size_outside": (patch(patch(good, central + 20, 1 << 30), central + 24, 1 << 30), "runs"),
        "zip64_sizes": (patch(good, central + 24, 0xFFFFFFFF), ""),
    }
    for length in (4, 30, 100, data + 4, central + 10, len(good) - 1, len(good) - 22):
        files[f"cut{length}"] = (good[:length], "truncated")
    return {f"zip_{key}.zip": value for key, value in files.items()}


def npz() -> bytes:
    return zipped().replace(b"data.pkl", b"data.npy")


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def patch(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + struct.pack("<I", value) + data[at + 4 :]


def set_flag(data: bytes, bit: int) -> bytes:
    at = data.find(b"PK\x01\x02")
    return data[: at + 8] + bytes([data[at + 8] | bit]) + data[at + 9 :]


def without_crc(data: bytes) -> bytes:
    at = data.find(b"PK\x01\x02")
    while at >= 0:
        data = patch(data, at + 16, 0)
        at = data.find(b"PK\x01\x02", at + 4)
    return data


def quoted() -> bytes:
    """One storage's bytes hold another entry, header and all, as zip bombs do."""
    inner = zipped(storages={"1": DATA})
    record = inner[inner.find(b"PK\x01\x02", inner.find(b"PK\x01\x02") + 4) : -22]
    start = inner.find(b"PK\x03\x04", 4)
    body = inner[start : inner.find(b"PK\x01\x02")]
    outer = zipped(pickled(table(w=tensor())), {"0": body})
    end = outer.rfind(b"PK\x05\x06")
    record = patch(record, 42, outer.find(body))
    count, size, offset = struct.unpack_from("<HLL", outer, end + 10)
    last = struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, 3, 3, size + len(record), offset, 0)
    assert count == 2
    return outer[:end] + record + last


def overlap(data: bytes) -> bytes:
    """The storage's record points at the pickle's local header."""
    second = data.find(b"PK\x01\x02", data.find(b"PK\x01\x02") + 4)
    return patch(data, second + 42, 0)


def broken_legacy() -> Files:
    good = legacy()
    outside = storage(view=tuple_(text("1"), integer(4), integer(3)))
    inside = storage(view=tuple_(text("1"), integer(-1), integer(3)))
    files: Files = {
        "magic": (legacy(magic=pickled(integer(7))), "did not write"),
        "magic_bool": (legacy(magic=pickled(b"\x88")), "did not write"),
        "plain_pickle": (pickle.dumps({"w": 1}, 2), "did not write"),
        "protocol": (legacy(protocol=pickled(integer(1002))), "protocol version"),
        "big_endian": (legacy(system=pickled(table(little_endian=b"\x89"))), "little-endian"),
        "system_list": (legacy(system=pickled(b"]")), "little-endian"),
        "keys_twice": (legacy(keys=("0", "0")), "listed twice"),
        "keys_extra": (legacy(keys=("0", "1")), "one side"),
        "keys_missing": (legacy(keys=()), "one side"),
        "count": (legacy(storages=struct.pack("<q", 5) + DATA), "5 elements"),
        "count_negative": (legacy(storages=struct.pack("<q", -1) + DATA), "elements"),
        "behind": (good + b"x", "behind"),
        "view_outside": (legacy(pickled(table(w=tensor(outside)))), "outside"),
        "view_negative": (legacy(pickled(table(w=tensor(inside)))), "outside"),
        "view_text": (legacy(pickled(table(w=tensor(storage(view=text("x")))))), "view"),
        "zip_identity": (legacy(STATE), "persistent"),
        "no_identity_size": (zipped(pickled(table(w=tensor(storage(view=b"N"))))), "persistent"),
    }
    for length in (5, 14, 40, len(good) // 2, len(good) - 30, len(good) - 1):
        files[f"cut{length}"] = (good[:length], "trunc")
    return {f"legacy_{key}.legacy": value for key, value in files.items()}


def hostile_torch() -> Files:
    return {
        **code_running(),
        **bombs(),
        **odd_objects(),
        **false_tensors(),
        **broken_zips(),
        **broken_legacy(),
    }
