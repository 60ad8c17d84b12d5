//! The inference service: each RPC in a few lines, its work in the file beside this one that is named for it.

use std::time::Duration;

use proto::inference::grpc_inference_service_server::GrpcInferenceService;
use proto::inference::{
    CudaSharedMemoryRegisterRequest, CudaSharedMemoryRegisterResponse, CudaSharedMemoryStatusRequest,
    CudaSharedMemoryStatusResponse, CudaSharedMemoryUnregisterRequest, CudaSharedMemoryUnregisterResponse, LogSettingsRequest,
    LogSettingsResponse, ModelConfigRequest, ModelConfigResponse, ModelInferRequest, ModelInferResponse, ModelMetadataRequest,
    ModelMetadataResponse, ModelReadyRequest, ModelReadyResponse, ModelStatisticsRequest, ModelStatisticsResponse,
    RepositoryIndexRequest, RepositoryIndexResponse, RepositoryModelLoadRequest, RepositoryModelLoadResponse,
    RepositoryModelUnloadRequest, RepositoryModelUnloadResponse, ServerLiveRequest, ServerLiveResponse, ServerMetadataRequest,
    ServerMetadataResponse, ServerReadyRequest, ServerReadyResponse, SystemSharedMemoryRegisterRequest,
    SystemSharedMemoryRegisterResponse, SystemSharedMemoryStatusRequest, SystemSharedMemoryStatusResponse,
    SystemSharedMemoryUnregisterRequest, SystemSharedMemoryUnregisterResponse, TraceSettingRequest, TraceSettingResponse,
};
use tonic::{Request, Response, Status, Streaming};

use crate::shared_memory::Kind;

use super::front_end::FrontEnd;
use super::{control, metadata, shared_memory, statistics, status, stream, unary};

type Reply<T> = Result<Response<T>, Status>;

/// Answers the RPCs of the inference service.
pub(super) struct InferenceService {
    front_end: FrontEnd,
    reply_delay: Option<Duration>,
}

impl InferenceService {
    pub(super) fn new(front_end: FrontEnd, reply_delay: Option<Duration>) -> Self {
        Self { front_end, reply_delay }
    }

    /// Lets a call pass that is no inference.
    async fn enter(&self) -> Result<(), Status> {
        if let Some(delay) = self.reply_delay {
            tokio::time::sleep(delay).await;
        }
        self.front_end.lifecycle.refuse_when_stopping().map_err(|error| status::infer_status("", &error))
    }
}

#[tonic::async_trait]
impl GrpcInferenceService for InferenceService {
    type ModelStreamInferStream = stream::InferStream;

    async fn server_live(&self, _: Request<ServerLiveRequest>) -> Reply<ServerLiveResponse> {
        self.enter().await?;
        Ok(Response::new(ServerLiveResponse { live: true }))
    }

    async fn server_ready(&self, _: Request<ServerReadyRequest>) -> Reply<ServerReadyResponse> {
        self.enter().await?;
        Ok(Response::new(ServerReadyResponse { ready: self.front_end.is_ready() }))
    }

    async fn model_ready(&self, request: Request<ModelReadyRequest>) -> Reply<ModelReadyResponse> {
        self.enter().await?;
        let ModelReadyRequest { name, version } = request.into_inner();
        let ready = self.front_end.is_model_ready(&name, &version).map_err(|error| status::infer_status(&name, &error))?;
        Ok(Response::new(ModelReadyResponse { ready }))
    }

    async fn server_metadata(&self, _: Request<ServerMetadataRequest>) -> Reply<ServerMetadataResponse> {
        self.enter().await?;
        Ok(Response::new(metadata::server(&self.front_end)))
    }

    async fn model_metadata(&self, request: Request<ModelMetadataRequest>) -> Reply<ModelMetadataResponse> {
        self.enter().await?;
        let ModelMetadataRequest { name, version } = request.into_inner();
        let found = metadata::model(&self.front_end, &name, &version);
        found.map(Response::new).map_err(|error| status::infer_status(&name, &error))
    }

    async fn model_infer(&self, request: Request<ModelInferRequest>) -> Reply<ModelInferResponse> {
        unary::infer(&self.front_end, request).await
    }

    async fn model_stream_infer(&self, requests: Request<Streaming<ModelInferRequest>>) -> Reply<Self::ModelStreamInferStream> {
        Ok(Response::new(stream::infer(&self.front_end, requests)))
    }

    async fn model_config(&self, request: Request<ModelConfigRequest>) -> Reply<ModelConfigResponse> {
        self.enter().await?;
        let ModelConfigRequest { name, version } = request.into_inner();
        let found = metadata::config(&self.front_end, &name, &version);
        found.map(Response::new).map_err(|error| status::infer_status(&name, &error))
    }

    async fn model_statistics(&self, request: Request<ModelStatisticsRequest>) -> Reply<ModelStatisticsResponse> {
        self.enter().await?;
        let ModelStatisticsRequest { name, version } = request.into_inner();
        statistics::statistics(&self.front_end, &name, &version).map(Response::new)
    }

    async fn repository_index(&self, request: Request<RepositoryIndexRequest>) -> Reply<RepositoryIndexResponse> {
        self.enter().await?;
        let index = control::index(&self.front_end.repository, request.into_inner()).await;
        index.map(Response::new).map_err(|error| status::control_status("", &error))
    }

    async fn repository_model_load(&self, request: Request<RepositoryModelLoadRequest>) -> Reply<RepositoryModelLoadResponse> {
        self.enter().await?;
        let _under_way = self.front_end.lifecycle.hold();
        let request = request.into_inner();
        let model = request.model_name.clone();
        let loaded = control::load(&self.front_end.repository, request).await;
        loaded.map_err(|error| status::control_status(&model, &error))?;
        Ok(Response::new(RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<RepositoryModelUnloadRequest>,
    ) -> Reply<RepositoryModelUnloadResponse> {
        self.enter().await?;
        let _under_way = self.front_end.lifecycle.hold();
        let request = request.into_inner();
        let model = request.model_name.clone();
        let unloaded = control::unload(&self.front_end.repository, request).await;
        unloaded.map_err(|error| status::control_status(&model, &error))?;
        Ok(Response::new(RepositoryModelUnloadResponse {}))
    }

    async fn system_shared_memory_status(
        &self,
        request: Request<SystemSharedMemoryStatusRequest>,
    ) -> Reply<SystemSharedMemoryStatusResponse> {
        self.enter().await?;
        shared_memory::system_status(&self.front_end.regions, &request.into_inner().name).map(Response::new)
    }

    async fn system_shared_memory_register(
        &self,
        request: Request<SystemSharedMemoryRegisterRequest>,
    ) -> Reply<SystemSharedMemoryRegisterResponse> {
        self.enter().await?;
        shared_memory::register_system(&self.front_end.regions, request.into_inner()).await?;
        Ok(Response::new(SystemSharedMemoryRegisterResponse {}))
    }

    async fn system_shared_memory_unregister(
        &self,
        request: Request<SystemSharedMemoryUnregisterRequest>,
    ) -> Reply<SystemSharedMemoryUnregisterResponse> {
        self.enter().await?;
        shared_memory::unregister(&self.front_end.regions, Kind::System, request.into_inner().name).await?;
        Ok(Response::new(SystemSharedMemoryUnregisterResponse {}))
    }

    async fn cuda_shared_memory_status(
        &self,
        request: Request<CudaSharedMemoryStatusRequest>,
    ) -> Reply<CudaSharedMemoryStatusResponse> {
        self.enter().await?;
        shared_memory::cuda_status(&self.front_end.regions, &request.into_inner().name).map(Response::new)
    }

    async fn cuda_shared_memory_register(
        &self,
        request: Request<CudaSharedMemoryRegisterRequest>,
    ) -> Reply<CudaSharedMemoryRegisterResponse> {
        self.enter().await?;
        shared_memory::register_cuda(&self.front_end.regions, request.into_inner()).await?;
        Ok(Response::new(CudaSharedMemoryRegisterResponse {}))
    }

    async fn cuda_shared_memory_unregister(
        &self,
        request: Request<CudaSharedMemoryUnregisterRequest>,
    ) -> Reply<CudaSharedMemoryUnregisterResponse> {
        self.enter().await?;
        shared_memory::unregister(&self.front_end.regions, Kind::Cuda, request.into_inner().name).await?;
        Ok(Response::new(CudaSharedMemoryUnregisterResponse {}))
    }

    async fn trace_setting(&self, _: Request<TraceSettingRequest>) -> Reply<TraceSettingResponse> {
        self.enter().await?;
        Err(status::not_built("TraceSetting"))
    }

    async fn log_settings(&self, _: Request<LogSettingsRequest>) -> Reply<LogSettingsResponse> {
        self.enter().await?;
        Err(status::not_built("LogSettings"))
    }
}
