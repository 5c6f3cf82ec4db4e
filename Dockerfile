# Built on the architecture at hand for the one asked for: Go needs no emulation.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETARCH
ARG VERSION
RUN GOARCH=$TARGETARCH make build VERSION=$VERSION

# No shell and no libraries: memrecon is static and starts no other program. The command image makes the same without a
# container engine; its tests hold the two together.
FROM scratch
ARG VERSION
LABEL org.opencontainers.image.title="memrecon" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /src/bin/memrecon /memrecon
# nobody: the kernel's files that memrecon reads are open to everyone.
USER 65534:65534
ENTRYPOINT ["/memrecon"]
CMD ["agent"]
