// A module of its own, so that what the lab is made of is no dependency of memrecon.
module github.com/memrecon/memrecon/e2e

go 1.26.0

require github.com/memrecon/memrecon v0.0.0

require golang.org/x/sys v0.49.0 // indirect

replace github.com/memrecon/memrecon => ../
