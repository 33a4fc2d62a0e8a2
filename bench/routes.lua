-- Asks for the routes of a file, one after the other: "host path" on each line. Prints as wrk.lua does.
dofile("wrk.lua")

local asked = {}
local last = 0

function init(arguments)
  for line in io.lines(arguments[1]) do
    local host, path = line:match("^(%S+) (%S+)$")
    asked[#asked + 1] = wrk.format("GET", path, {Host = host})
  end
  -- Threads do not walk in step.
  math.randomseed(os.time() + tonumber(tostring(asked):match("0x(%x+)"), 16) % 65536)
  last = math.random(#asked)
end

function request()
  last = last % #asked + 1
  return asked[last]
end
