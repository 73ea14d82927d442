"""The gRPC methods of a deployment, under the names that Serve looks for."""

from typing import Any

from ray_mlops.serving.grpc_service import GrpcService


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
