"""The gRPC methods of a deployment, under the names that Serve looks for, and how Serve learns of them."""

from typing import Any

import grpc

from ray_mlops.serving.dialects import open_inference_pb2
from ray_mlops.serving.dialects.grpc_service import GrpcService

SERVICER = f"{__name__}.add_to_server"
"""Import path that Serve registers the calls by."""


def add_to_server(servicer: Any, server: Any) -> None:
    """Register the calls of the protocol's definition; Serve puts its own routing in the place of ``servicer``.

    Args:
        servicer: Has a method for each call.
        server: Takes the handlers.
    """
    service = open_inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    handlers = {
        call.name: grpc.unary_unary_rpc_method_handler(
            getattr(servicer, call.name),
            request_deserializer=getattr(open_inference_pb2, call.input_type.name).FromString,
            response_serializer=getattr(open_inference_pb2, call.output_type.name).SerializeToString,
        )
        for call in service.methods
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))


class GrpcMethods:
    """Hands each call on to ``grpc_service``; Serve gives a method its context by the argument's name."""

    grpc_service: GrpcService

    async def ServerLive(self, message: Any, grpc_context: Any) -> Any:  # noqa: N802
        """Answer ``ServerLive``."""
        return await self.grpc_service.server_live(message, grpc_context)

    async def ServerReady(self, message: Any, grpc_context: Any) -> Any:  # noqa: N802
        """Answer ``ServerReady``."""
        return await self.grpc_service.server_ready(message, grpc_context)

    async def ServerMetadata(self, message: Any, grpc_context: Any) -> Any:  # noqa: N802
        """Answer ``ServerMetadata``."""
        return await self.grpc_service.server_metadata(message, grpc_context)

    async def ModelReady(self, message: Any, grpc_context: Any) -> Any:  # noqa: N802
        """Answer ``ModelReady``."""
        return await self.grpc_service.model_ready(message, grpc_context)

    async def ModelMetadata(self, message: Any, grpc_context: Any) -> Any:  # noqa: N802
        """Answer ``ModelMetadata``."""
        return await self.grpc_service.model_metadata(message, grpc_context)

    async def ModelInfer(self, message: Any, grpc_context: Any) -> Any:  # noqa: N802
        """Answer ``ModelInfer``."""
        return await self.grpc_service.model_infer(message, grpc_context)
