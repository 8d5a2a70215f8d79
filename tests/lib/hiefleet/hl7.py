"""Synthetic HL7 v2 messages, and just enough reading to check an acknowledgement."""

import itertools
import os

_numbers = itertools.count(1)


def control_id():
    """Unique over processes and runs, since duplicates within a window are answered from the store."""
    return f"T{os.getpid():x}{next(_numbers):x}{os.urandom(3).hex()}"


def message(type_, event, control=None, *, version="2.5", family="SYNTHETIC", accept="", application="", extra=(),
            separators="|^~\\&", structure=None):
    """An HL7 message's bytes, its segments ended by CR. Fields are written with `separators`."""
    field, component = separators[0], separators[1]
    type_field = component.join(part for part in (type_, event, structure) if part)
    segments = [
        ["MSH" + field + separators[1:], f"WARD{component}1.2{component}ISO", "HOSPITAL", "HIE", "FLEET",
         "20260101120000", "", type_field, control or control_id(), "P", version, "", "", accept, application],
        ["EVN", event, "20260101120000"],
        ["PID", "1", "", f"9000000001{component * 3}TEST{component}MR", "", f"{family}{component}PATIENT", "",
         "19700101", "U"],
        ["PV1", "1", "I", "WARD"],
    ]
    segments += [list(segment) for segment in extra]
    return b"".join(field.join(segment).rstrip(field).encode("utf-8") + b"\r" for segment in segments)


def adt(event="A01", control=None, **more):
    return message("ADT", event, control, **more)


def oru(control=None, **more):
    more.setdefault("extra", [["OBR", "1", "", "", "CBC"], ["OBX", "1", "NM", "HGB", "", "13.5"]])
    return message("ORU", "R01", control, **more)


class Message:
    """Fields by HL7's own numbers: m("MSA", 2), m("MSH", 9). Empty text for what is absent."""

    def __init__(self, data):
        self.data = data
        self.segments = [part for part in data.split(b"\r") if part]
        assert self.segments and self.segments[0][:3] == b"MSH", f"no MSH: {data[:80]!r}"
        self.separator = self.segments[0][3:4]

    def __call__(self, name, number):
        for segment in self.segments:
            fields = segment.split(self.separator)
            if fields[0] == name.encode():
                index = number - 1 if name == "MSH" else number
                return fields[index].decode("utf-8", "replace") if index < len(fields) else ""
        return ""

    def has(self, name):
        return any(segment[:3] == name.encode() for segment in self.segments)

    @property
    def code(self):
        return self("MSA", 1)

    @property
    def echoed(self):
        """The control id that it acknowledges."""
        return self("MSA", 2)
