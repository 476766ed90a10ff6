"""Arguments taken apart into tensors and guarded leaves, and results put together again.

Both become generated code: `Arguments` gives the lines that a guard runs to reach every leaf of a call's arguments,
`Rebuild` a function that makes a result of the recorded structure from new tensors, and writes the state that the run wrote.
"""
from __future__ import annotations

import dataclasses
import inspect
import types
from collections import Counter, OrderedDict, defaultdict, deque
from typing import Any, Callable, Container, Mapping, Sequence

import numpy
import torch
from torch import nn

from ...compiler.ir import TensorType
from ...errors import Unsupported
from ..symbolic.arrays import Array, Arrays, tensor_of
from ..symbolic.scalars import KINDS, Scalar, is_scalar, standing_for
from ..symbolic.symbols import Numbers, is_symbolic, noted
from .guards import Condition, Namespace, Read, access, constant, equality, has_strides, number_condition
from .parameters import code_called, keys_read
from .writes import STATEMENTS, Write

#: Nested deeper than this, a structure counts as cyclic.
DEPTH = 50
#: Types of values that classes may derive from, and what gives the value itself of an instance of such a class.
_PLAINLY = {int: int.__int__, float: float.__float__, complex: complex.__complex__, str: str.__str__, bytes: bytes.__bytes__}
_HEAP_TYPE = 1 << 9  # of type.__flags__: not one of those made in C


def is_namedtuple(value: Any) -> bool:
    """Whether a tuple has names for its items: a named tuple, or a struct sequence such as torch.return_types.max."""
    return isinstance(value, tuple) and type(value) is not tuple and (hasattr(type(value), "_fields")
                                                                      or hasattr(type(value), "n_sequence_fields"))


def tuple_like(value: tuple, items: Sequence) -> tuple:
    """A tuple of the same class with other items."""
    return torch.Size(items) if isinstance(value, torch.Size) else tuple.__new__(type(value), items)


def is_dataclass_instance(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def is_plain_instance(value: Any) -> bool:
    """Whether a value is all in its `__dict__` and slots, and in its items: a SimpleNamespace, or an instance of classes written
    in Python over nothing but `object`, or but dicts or a SimpleNamespace."""
    cls, attributes = type(value), getattr(value, "__dict__", None)
    if issubclass(cls, (nn.Module, type)) or type(attributes) is not dict and not (attributes is None and slots_of(cls)):
        return False
    return _in_python(cls, next(base for base in (dict, types.SimpleNamespace, object) if issubclass(cls, base)))


def _in_python(cls: type, base: type) -> bool:
    """Whether instances of a class are made as those of `base` are, and have no more than its classes in Python give them."""
    ours = (c for c in cls.__mro__ if c not in (object, dict, OrderedDict, types.SimpleNamespace))
    return cls.__new__ is base.__new__ and all(c.__flags__ & _HEAP_TYPE for c in ours)


def slots_of(cls: type) -> list[str]:
    """The names of the attributes that instances have outside their `__dict__`, by `__slots__`."""
    return [name for c in cls.__mro__ if "__slots__" in vars(c) for name, member in vars(c).items()
            if isinstance(member, types.MemberDescriptorType)]


def argument_names(function: Callable, args: tuple, kwargs: dict) -> tuple[list[str], list[str]]:
    """A name for every positional and every keyword argument, from the function's signature where it has one."""
    positional: list[str] = []
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (ValueError, TypeError):
        parameters = []
    for p in parameters:
        if p.kind is p.VAR_POSITIONAL:
            positional += [f"{p.name}[{i}]" for i in range(len(args) - len(positional))]
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            positional.append(p.name)
    positional += [f"arg{i}" for i in range(len(positional), len(args))]
    return positional[:len(args)], list(kwargs)


class Arguments:
    """One call's arguments, taken apart.

    tensors     (local name in the generated code, name for people, tensor), each tensor object once
    steps       lines and conditions that reach every leaf and check the structure around it
    objects     (name, object) of every leaf that is no value: guarded by identity
    containers  (name, container) of those that a run may change
    places      id of every container and tensor -> expression for it in terms of `args` and `kwargs`
    leaves      the same expressions of all numbers -> their values
    call        (args, kwargs) as they are to be recorded, with stand-ins for some: symbolic numbers, tensors of symbolic sizes
    standins    those that stand in lists, dicts and dataclasses as (container, key, what is there, what is there in the run)
    remade      tuples with others in them, also of state, which are remade for the run, as (new, what was there)
    fetched     by id, the objects that are other ones on every call: not guarded by identity, see fetched.py
    instances   by id, the objects that are such, or may become such
    distinct    the containers and fetched objects: none is another of them, or an object that other guards name
    given       the numbers of the recording, None if there are none; `numbers` are the names of those among the arguments
    arrays      the stand-ins for arrays of NumPy's; `with_arrays`: whether arguments get such; `of_arrays`: which of the tensors
                are of their memory
    """

    def __init__(self, function: Callable, args: tuple, kwargs: dict, names: Namespace, bound: int = 0,
                 numbers: Numbers | None = None, symbolic: Container[str] = (),
                 another: Callable[[str, Any], bool] = lambda place, value: False, arrays: bool = False):
        """bound: how many leading arguments are known to be the same objects on every call, and need no guard; symbolic: the
        places of the numbers for which `numbers` is to have a stand-in; another: tells whether the object at a place is another
        one on every call; arrays: whether arrays get stand-ins, or are objects as others are."""
        self.tensors: list[tuple[str, str, torch.Tensor]] = []
        self.objects: list[tuple[str, Any]] = []
        self.containers: list[tuple[str, Any]] = []
        self.places: dict[int, str] = {}
        self.leaves: dict[str, int | float] = {}
        self.standins: list[tuple[Any, Any, Any, Any]] = []
        self.remade: list[tuple[tuple, tuple]] = []
        self.numbers: set[str] = set()
        self.fetched: dict[int, Any] = {}
        self.instances: dict[int, Any] = {}
        self.distinct: list[Any] = []
        self._another = another
        self.given, self._symbolic, self._taken = numbers, symbolic, {}
        self.arrays, self.with_arrays, self.of_arrays = Arrays(), arrays, []
        self._names, self._count, self._locals = names, 0, {}
        positional, keywords = argument_names(function, args, kwargs)
        self.steps: list[Condition | str] = [
            Condition(f"len(args) == {len(args)}", "len(args)", "number of positional arguments", len(args)),
            Condition(f"tuple(kwargs) == {tuple(kwargs)!r}" if kwargs else "not kwargs", "tuple(kwargs)", "keyword arguments",
                      tuple(kwargs))]
        for i, (name, value) in enumerate(zip(positional, args[:bound])):
            self.objects.append((name, value))
            self.places[id(value)] = f"args[{i}]"
            names.place(value, f"args[{i}]")
        code = code_called(function)
        taken = (*args[:bound], *(self._argument(args[i], f"args[{i}]", name, code and keys_read(*code, i))
                                  for i, name in enumerate(positional) if i >= bound))
        self.call = taken, {k: self._argument(kwargs[k], f"kwargs[{k!r}]", k, code and keys_read(*code, k)) for k in keywords}
        self._taken.clear()

    def let_go(self) -> None:
        """Hold no stand-ins any more: the run is over."""
        self.standins.clear()
        self.remade.clear()

    @property
    def forms(self) -> Mapping[int, TensorType]:
        """The types of the tensors, by id, that have symbolic sizes in the recording."""
        return {}

    def own(self, value: Any) -> Any:
        """What the call has in the place of what the run gets."""
        return value

    def own_read(self, read: Read) -> Read:
        """A read of the run, as it is without stand-ins."""
        return read

    def _local(self, access: str) -> str:
        variable = f"a{self._count}"
        self._count += 1
        self.steps.append(f"{variable} = {access}")
        return variable

    def _argument(self, value: Any, place: str, name: str, read: tuple | None) -> Any:
        """Reach an argument: of a dict the items that the function may `read`, by their keys, or all for None."""
        if read is None or type(value) is not dict or value.keys() <= set(read):
            return self._take(value, place, place, name, 0)
        variable = self._local(place)
        self.steps.append(Condition(f"type({variable}) is dict", f"type({variable})", f"type of {name}", dict))
        for key in read:
            found, there = self._names.literal(key), key in value
            self.steps.append(Condition(f"{found} {'in' if there else 'not in'} {variable}", f"{found} in {variable}",
                                        f"whether there is {name}[{key!r}]", there))
        for key in filter(value.__contains__, read):
            at = f"[{self._names.literal(key)}]"
            item = self._take(value[key], variable + at, place + at, f"{name}[{key!r}]", 1)
            self.standins += [(value, key, value[key], item)] * (item is not value[key])
        return value

    def _take(self, value: Any, access: str, place: str, name: str, depth: int) -> Any:
        """Reach one value, and give what stands for it in the recording. `access` is its expression from a local of the
        guard, `place` from args and kwargs."""
        if depth > DEPTH:
            raise Unsupported(f"argument {name} is nested too deeply")
        if isinstance(value, torch.Tensor):
            return self._tensor(value, access, place, name)
        named = is_namedtuple(value) and not getattr(value, "__dict__", None)
        if type(value) in (list, tuple, dict, OrderedDict) or named or self._flat_dataclass(value):
            return self._container(value, access, place, name, depth)
        if type(value) in (set, frozenset) and all(map(constant, value)):
            return self._set(value, access, place, name)
        if type(value) in (int, float):
            self.leaves[place] = value
            if place in self._symbolic:
                return self._number(value, access, name)
        if type(value) in KINDS:
            self.leaves[place] = value
            if place in self._symbolic:
                return self._scalar(value, access, name)
        if type(value) is numpy.ndarray and self.with_arrays and tensor_of(value) is not None:
            return self._array(value, access, place, name)
        if not constant(value) or type(value).__flags__ & _HEAP_TYPE:  # whose class may be the user's
            self.objects.append((name, value))
        if is_plain_instance(value):
            fixed = id(value) in self.instances and id(value) not in self.fetched  # it stands at an earlier place, too
            self.instances[id(value)] = value
            self.places.setdefault(id(value), place)
            if self._another(place, value) and not fixed:
                return self._fetched(value, access, place, name)
        self.steps.append(Condition(equality(self._names, access, value), access, name, value))
        return value

    def _again(self, value: Any, access: str, name: str, kind: str = "object") -> bool:
        """Whether a value stands at an earlier place, too, which is guarded then."""
        first = self._locals.get(id(value))
        if first is not None:
            expected = None if kind == "object" else value
            self.steps.append(Condition(f"{access} is {first}", access, f"{name}, the same {kind} as an earlier one,", expected))
        return first is not None

    def _fetched(self, value: Any, access: str, place: str, name: str) -> Any:
        """Reach an object that is another one on every call: all that the run reads of it is guarded."""
        if self._again(value, access, name):
            return value
        variable = self._locals[id(value)] = self._local(access)
        found, kind = f"type({variable})", type(value)
        self.steps.append(Condition(f"{found} is {self._names.bind(kind)}", found, f"type of {name}", kind))
        self._names.place(value, variable)
        self.distinct.append(value)
        self.places[id(value)], self.fetched[id(value)] = place, value
        return value

    def _number(self, value: int | float, access: str, name: str) -> Any:
        number = self.given.given(value, name)
        self.numbers.add(number.node.name)
        self.steps += [f"{number.node.name} = {access}", number_condition(number.node, number.node.name)]
        return number

    def _scalar(self, value: Any, access: str, name: str) -> Scalar:
        """Reach a number of NumPy's, as one of Python's."""
        kind, (python, _) = self._names.bind(type(value)), KINDS[type(value)]
        number = self.given.given(python(value), name)
        self.numbers.add(number.node.name)
        self.steps += [Condition(f"type({access}) is {kind}", f"type({access})", f"type of {name}", type(value)),
                       f"{number.node.name} = {python.__name__}({access})"]
        return standing_for(number.node, type(value))

    @staticmethod
    def _flat_dataclass(value: Any) -> bool:
        """A dataclass with nothing but its fields: taken apart. Anything else with attributes is guarded as an object."""
        if not is_dataclass_instance(value) or isinstance(value, (dict, list, tuple, set, torch.nn.Module)):
            return False
        return set(getattr(value, "__dict__", ())) == {f.name for f in dataclasses.fields(value)}

    def _tensor(self, value: torch.Tensor, access: str, place: str, name: str) -> torch.Tensor:
        if self._again(value, access, name, "tensor"):
            return self._taken.get(id(value), value)
        if type(value) not in (torch.Tensor, nn.Parameter):  # whose attributes may run code of the user's
            raise Unsupported(f"argument {name} is a tensor of the class {type(value).__name__}")
        if not has_strides(value):
            raise Unsupported(f"argument {name} is a tensor without strides ({'nested' if value.is_nested else value.layout})")
        variable = self._locals[id(value)] = self._local(access)
        kind = self._names.bind(type(value))
        self.steps.append(Condition(f"type({variable}) is {kind}", f"type({variable})", f"type of {name}", type(value)))
        self.steps.append(Condition(f"not {variable}.is_nested", f"{variable}.is_nested", f"{name}.is_nested", False))
        self.places[id(value)] = place
        self._names.place(vars(value), f"vars({variable})")
        self.tensors.append((variable, name, value))
        return value

    def _array(self, value: numpy.ndarray, access: str, place: str, name: str) -> Array:
        """Reach an array, as a tensor of its memory."""
        if self._again(value, access, name, "array"):
            return self._taken[id(value)]
        variable = self._locals[id(value)] = self._local(access)
        kind = self._names.bind(numpy.ndarray)
        self.steps.append(Condition(f"type({variable}) is {kind}", f"type({variable})", f"type of {name}", numpy.ndarray))
        self.places[id(value)] = place
        self.of_arrays.append(len(self.tensors))
        tensor = self._tensor(tensor_of(value), f"{self._names.bind(tensor_of)}({variable})", place, name)
        made = self._taken[id(value)] = self.arrays.stand_in(tensor, value)
        return made

    def _container(self, value: Any, access: str, place: str, name: str, depth: int) -> Any:
        if self._again(value, access, name):
            return self._taken.get(id(value), value)
        variable = self._locals[id(value)] = self._local(access)
        self.places[id(value)] = place
        kind = type(value)
        found = f"type({variable})"
        self.steps.append(Condition(f"{found} is {self._names.bind(kind)}", found, f"type of {name}", kind))
        if not isinstance(value, tuple):
            self._names.place(value, variable)
            self.distinct.append(value)
        if kind not in (list, tuple, dict, OrderedDict):
            self.objects.append((kind.__qualname__, kind))
        if isinstance(value, tuple) and hasattr(value, "__dict__"):
            self.steps.append(Condition(f"not {variable}.__dict__", f"{variable}.__dict__", f"attributes of {name}", {}))
        if is_dataclass_instance(value):
            self.containers.append((name, vars(value)))
            self.places[id(vars(value))] = f"vars({place})"
            items = [(f".{field}", f"{name}.{field}", v) for field, v in vars(value).items()]
            shape, now = f"tuple(vars({variable})) == {tuple(vars(value))!r}", f"tuple(vars({variable}))"
        elif isinstance(value, dict):
            self.containers.append((name, value))
            keys = tuple(value)
            if not all(map(constant, keys)):
                raise Unsupported(f"argument {name} has a key that is neither a number nor text")
            items = [(f"[{self._names.literal(k)}]", f"{name}[{k!r}]", v) for k, v in value.items()]
            shape, now = equality(self._names, f"tuple({variable})", keys), f"tuple({variable})"
        else:
            if isinstance(value, list):
                self.containers.append((name, value))
            items = [(f"[{i}]", f"{name}[{i}]", v) for i, v in enumerate(value)]
            shape, now = f"len({variable}) == {len(value)}", f"len({variable})"
        held = len(value) if isinstance(value, (list, tuple)) else tuple(value if isinstance(value, dict) else vars(value))
        self.steps.append(Condition(shape, now, f"what {name} holds", held))
        return self._filled(value, place, [self._take(v, variable + suffix, place + suffix, item, depth + 1)
                                           for suffix, item, v in items])

    def _set(self, value: set | frozenset, access: str, place: str, name: str) -> set | frozenset:
        """Reach a set of numbers and text, as what it holds, in the order in which it gives them."""
        if self._again(value, access, name):
            return value
        variable, kind, held = self._local(access), type(value), tuple(value)
        self._locals[id(value)], self.places[id(value)] = variable, place
        self.steps.append(Condition(f"type({variable}) is {kind.__name__}", f"type({variable})", f"type of {name}", kind))
        self.steps.append(Condition(equality(self._names, f"tuple({variable})", held), f"tuple({variable})", f"what {name} holds",
                                    held))
        self._names.place(value, variable)
        self.distinct.append(value)
        if kind is set:
            self.containers.append((name, value))
        return value

    def _filled(self, value: Any, place: str, items: list) -> Any:
        """A container with these items, which may be stand-ins, in place of its own."""
        holder = vars(value) if is_dataclass_instance(value) else value
        keys, held = (holder.keys(), holder.values()) if isinstance(holder, dict) else (range(len(value)), value)
        other = [(key, item, was) for key, item, was in zip(keys, items, held) if item is not was]
        if other and isinstance(holder, tuple):
            made = self._taken[id(value)] = tuple_like(value, items)
            self.remade.append((made, value))
            self.places[id(made)] = place
            return made
        self.standins += [(holder, key, was, item) for key, item, was in other]
        return value


class Rebuild:
    """How a recorded result, and the state that the run wrote, are made again from new tensors.

    `tensors` are the tensors of the result and of what was written, in order, each object once. `make(tensors, args,
    kwargs)` performs the writes and gives the result: the same containers around the given tensors; arguments, and
    objects from outside the run, stay the same objects. `numbers` are the names of the symbolic numbers among them: `make`
    expects their values behind the tensors, in reverse order.
    """

    def __init__(self, result: Any, places: dict[int, str], outside: Callable[[Any], bool], made: Callable[[torch.Tensor], bool],
                 writes: Sequence[Write] = (), fetched: Mapping[int, Read] = {}):
        """places: expressions for the arguments' containers by id; outside(object): whether it was there before the run;
        made(tensor): whether the run made it, and with it its attributes; fetched: the reads that find what is another object on
        every call, by id."""
        self.tensors: list[torch.Tensor] = []
        self._names, self._places, self._outside, self._made, self._fetched = Namespace(), places, outside, made, fetched
        self._lines: list[str] = []
        self._done: dict[int, str] = {}
        self._open: set[int] = set()
        self._what, self._where = "returns", ""
        self.numbers: list[str] = []
        expression = self._expression(result)
        statements = [self._statement(w) for w in writes]  # after all values: they change what these are found in
        body = "\n".join(f"    {line}" for line in (*self._lines, *statements, f"return {expression}"))
        self.source = f"def make(tensors, args, kwargs):\n{body}\n"
        self.make: Callable[[Sequence[torch.Tensor], tuple, dict], Any] = self._names.function(self.source, "make")

    def _statement(self, w: Write) -> str:
        """The text of a write."""
        self._what, self._where = "tells" if w.kind == "run" else f"sets {w.subject} to", w.where
        key = self._names.literal(w.key) if constant(w.key) else self._expression(w.key)
        return STATEMENTS[w.kind](self._names, w, self._found(w.holder), key, self._expression(w.value))

    def _expression(self, value: Any) -> str:
        if is_scalar(value):
            return f"{self._names.bind(value.kind)}({self._number(value.node.name)})"
        if is_symbolic(value):
            return self._number(value.node.name)
        if type(value) is Array and id(value.known) in self._places:
            return self._expression(value.known)
        if constant(value):
            return self._names.literal(value)
        if isinstance(value, numpy.dtype) or isinstance(value, numpy.generic) and value.dtype.kind in "biufc":
            return self._names.bind(value)
        if id(value) in self._done:
            return self._done[id(value)]
        if id(value) in self._open or len(self._open) > DEPTH:
            raise Unsupported(f"{self._what} a container that holds itself, or is nested too deeply", self._where)
        self._open.add(id(value))
        if isinstance(value, torch.Tensor):
            self.tensors.append(value)
            expression = f"tensors[{len(self.tensors) - 1}]"
            if vars(value) and self._made(value):
                expression = self._local(self._furnished(expression, {}, vars(value)))
        elif type(value) is Array:
            expression = self._local(f"{self._expression(value.tensor)}.numpy()")
        elif (id(value) in self._places or id(noted(value)) in self._fetched or self._outside(value)
              or isinstance(value, type) and "<locals>" not in value.__qualname__):
            expression = self._found(value)
        else:
            expression = self._local(self._container(value))
        self._open.remove(id(value))
        self._done[id(value)] = expression
        return expression

    def _found(self, value: Any) -> str:
        """The expression for an object that was there before the run."""
        if id(value) in self._done:
            return self._done[id(value)]
        read = self._fetched.get(id(noted(value)))
        if id(value) in self._places:
            expression = self._local(self._places[id(value)])
        elif read is not None:
            key = str(read.key) if read.kind == "attr" else self._names.literal(read.key)
            expression = self._local(access(read.kind, self._found(read.holder), key))
        else:
            expression = self._names.bind(value)
        self._done[id(value)] = expression
        return expression

    def _number(self, name: str) -> str:
        """A number that the guards compute; they stand behind the tensors, the first one last."""
        if name not in self.numbers:
            self.numbers.append(name)
        return f"tensors[-{self.numbers.index(name) + 1}]"

    def _local(self, text: str) -> str:
        self._lines.append(f"r{len(self._lines)} = {text}")
        return f"r{len(self._lines) - 1}"

    def _container(self, value: Any) -> str:
        """The text that makes a container like the one that the run made."""
        kind = type(value)
        if kind is list:
            return f"[{', '.join(map(self._expression, value))}]"
        if isinstance(value, (int, float, complex, str, bytes)):
            base = next(b for b in _PLAINLY if isinstance(value, b))
            made = f"{base.__name__}.__new__({self._names.bind(kind)}, {self._names.literal(_PLAINLY[base](value))})"
            return self._with_attributes(made, value)
        if isinstance(value, tuple):
            items = "".join(f"{self._expression(v)}, " for v in value)
            if kind is torch.Size or hasattr(kind, "n_sequence_fields"):  # a struct sequence, as torch.return_types.max
                return f"{self._names.bind(kind)}(({items}))"
            return f"({items})" if kind is tuple else self._with_attributes(
                f"tuple.__new__({self._names.bind(kind)}, ({items}))", value)
        if kind is slice:
            return f"slice({', '.join(map(self._expression, (value.start, value.stop, value.step)))})"
        if kind in (set, frozenset) and all(map(constant, value)):
            return f"{kind.__name__}(({''.join(self._expression(v) + ', ' for v in value)}))"
        if kind is dict:
            return "{" + self._items(value.items()) + "}"
        if kind in (OrderedDict, Counter) and not vars(value):
            return f"{self._names.bind(kind)}({{{self._items(value.items())}}})"
        if kind is defaultdict:
            return f"{self._names.bind(kind)}({self._expression(value.default_factory)}, {{{self._items(value.items())}}})"
        if kind is deque:
            return f"{self._names.bind(kind)}([{', '.join(map(self._expression, value))}], {value.maxlen})"
        if is_dataclass_instance(value) or is_plain_instance(value):
            kind = self._names.bind(kind)
            return self._with_attributes(f"{kind}.__new__({kind})", value)
        raise Unsupported(f"{self._what} an object of type {kind.__qualname__} made by the run", self._where)

    def _with_attributes(self, made: str, value: Any) -> str:
        """The text that gives a new instance, made by the text `made`, what another one has: its attributes and its items."""
        named = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
        fields = {f.name: getattr(value, f.name) for f in named if hasattr(value, f.name)}
        slots = {name: getattr(value, name) for name in slots_of(type(value)) if hasattr(value, name)}
        attributes = {**fields, **slots, **getattr(value, "__dict__", {})}
        items = value if isinstance(value, dict) else {}
        return self._furnished(made, items, attributes) if items or attributes else made

    def _furnished(self, made: str, items: Mapping, attributes: Mapping) -> str:
        return f"{self._names.bind(furnished)}({made}, {{{self._items(items.items())}}}, {{{self._items(attributes.items())}}})"

    def _items(self, items: Any) -> str:
        return ", ".join(f"{self._expression(k)}: {self._expression(v)}" for k, v in items)


def furnished(made: Any, items: dict, attributes: dict) -> Any:
    """A new instance or tensor with these attributes (and these items, for a subclass of dict), set without running its class's
    code."""
    put = OrderedDict.__setitem__ if isinstance(made, OrderedDict) else dict.__setitem__
    for key, value in items.items():
        put(made, key, value)
    for name, value in attributes.items():
        object.__setattr__(made, name, value)
    return made
