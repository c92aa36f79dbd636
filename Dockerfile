# bobbin as a container: one static binary, no shell, no root.
#
#   docker build -t bobbin .                    # Go handlers and Starlark
#   docker build -t bobbin --target python .    # the same with CPython, for .py workflows
#
# No init is needed beside it: as the first process of a container, worker and supervise run below one of their own, which
# buries what killed interpreters leave behind.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /bobbin ./cmd/bobbin

FROM python:3.13-slim AS python
COPY --from=build /bobbin /bobbin
USER 65532:65532
ENTRYPOINT ["/bobbin"]
CMD ["supervise"]

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /bobbin /bobbin
USER nonroot:nonroot
ENTRYPOINT ["/bobbin"]
CMD ["supervise"]
