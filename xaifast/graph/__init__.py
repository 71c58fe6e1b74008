"""The graph engine: capture a model, canonize its graph, prove facts about it, run it both ways.

node        an operation, and the facts that are proven about it
rule        the interface of a rule, the call of a node that it is given, its account
edit        edits of an fx graph
operations  ATen's operations by what they do, and those that a canonical graph has beside them
capture/    the user's model as a functional graph
canonize    passes that keep the function and leave fewer kinds of node
facts       the canonical graph as nodes: kinds, signs, places
model       the graphs of a model, kept between calls; `signature`: the calls each is valid for
proof/      that a graph is still the model: its values, its code, its gradient, its rows
layers/     linear maps: weights, products, and the kernels for them
recurrent/  LSTM, GRU, packed and padded sequences; `tokens`: numbers that are looked up
weights     parameters as they are now, and what is derived from them
run         forwards, then the rules in reverse; `prefix`: the linear part next to the input
local/      changes of a part of the input
flat        a run recorded as plain calls
"""
