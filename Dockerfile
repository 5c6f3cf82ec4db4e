FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION
RUN make build VERSION=$VERSION

# No shell and no libraries: memrecon is static and starts no other program.
FROM scratch
COPY --from=build /src/bin/memrecon /memrecon
# nobody: the kernel's files that memrecon reads are open to everyone.
USER 65534:65534
ENTRYPOINT ["/memrecon"]
CMD ["agent"]
